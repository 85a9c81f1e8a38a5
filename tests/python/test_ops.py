# SPDX-License-Identifier: Apache-2.0
"""Each op of the attention kernels is found by its name: plain, in vectors, in the checker, in the documents."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KERNELS = ROOT / "libsla2/src/kernels"


def ops() -> list[str]:
    """The fields of the table, in its order. What is found is the symbol: several small ops share a file."""
    table = re.search(r"struct AttentionOps \{(.*?)\n\};", (KERNELS / "attention_ops.h").read_text(encoding="utf-8"), re.DOTALL)
    assert table is not None
    return re.findall(r"^\s*\w+ (\w+);", table[1], re.MULTILINE)


def words(*files: Path) -> set[str]:
    return {word for path in files for word in re.findall(r"\w+", path.read_text(encoding="utf-8"))}


CHECKER = ROOT / "tests/check/ops.cpp"
ALONE = set(re.findall(r"SLA2_OP_ALONE\((\w+), k", CHECKER.read_text(encoding="utf-8")))
PLACES = {
    "ref": words(*(KERNELS / "ref").glob("*.cpp")),
    "cpu": words(*(KERNELS / "cpu").iterdir()) | ALONE,  # the checker says why one version is enough
    "check": set(re.findall(r"SLA2_OP(?:_ALONE)?\((\w+)", CHECKER.read_text(encoding="utf-8"))),
    "docs": words(ROOT / "libsla2/docs/kernels/ops.md"),
}


def test_there_are_ops() -> None:
    assert {"panel_gemm", "gemm_bf16", "attend_fp8", "through_features"} <= set(ops())


@pytest.mark.parametrize("place", PLACES)
def test_every_op_is_found_by_name(place: str) -> None:
    missing = [op for op in ops() if op not in PLACES[place]]
    assert not missing, f"not found by name in {place}: {', '.join(missing)}"


def test_the_documents_name_no_op_that_is_gone() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(\w+\.h)` \|", (ROOT / "libsla2/docs/kernels/ops.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert [name for name, _ in rows] == ops()
    for name, header in rows:
        assert name in words(KERNELS / header), f"{header} does not declare {name}"
