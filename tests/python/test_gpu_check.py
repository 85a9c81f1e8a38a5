# SPDX-License-Identifier: Apache-2.0
"""./dev gpu-check without a GPU: the same programs on the emulated one at small shapes, the report, and what is said where there is none."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
TREE = ROOT / os.environ.get("SLA2_BUILD", "build/dev")
SCRIPT = ROOT / "tests/gpu/gpu_check.py"
CASE = "mode=sla2 N=70 N_kv=200 D=64 sparsity=0.5 products=bf16"


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


report_format = load(ROOT / "tests/gpu/report.py")


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, timeout=300, check=False)


def tiny(folder: Path, *more: str, gpu: str = "far:89") -> subprocess.CompletedProcess[str]:
    if not (TREE / "tests/gpu/sla2_gpu_check").exists():
        pytest.skip("this tree has no sla2_gpu_check")
    words = ["--build-dir", str(TREE), "--out", str(folder), "--gpu", gpu, "--case", CASE, "--shapes", "tiny:150:2:64"]
    return run(*words, "--sparsities", "0,0.5", "--repeats", "1", *more)


def test_a_whole_run_on_the_emulated_gpu(tmp_path: Path) -> None:
    done = tiny(tmp_path, "--turns", "2", "--torch-cpu")
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.glob("*.json")
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    assert report_format.problems(report) == []
    assert {row["instruction"] for row in report["trials"]} >= {"mma.m16n8k16 bf16", "mma.m16n8k32 s8", "mma.m16n8k32 e4m3", "ldmatrix.x4"}
    assert all(row["tried"] and row["cases"] > 0 and row["different"] == 0 for row in report["trials"])
    sums = {row["instruction"]: row["sum_bits"] for row in report["trials"]}
    assert sums["mma.m16n8k32 e4m3"] == 13 and sums["mma.m16n8k32 e4m3, fp16 sums"] == 10 and sums["mma.m16n8k16 bf16"] == 18, (
        "as far as was asked for bf16"
    )
    assert "1 PASS" in report["checks"]["summary"]
    assert [(row["sparsity"], row["bits"], row["fp8_values"]) for row in report["bench"]] == [
        (s, *kind) for kind in ((16, False), (8, False), (8, True), (8, True)) for s in (0, 0.5)
    ]
    for row in report["bench"]:
        assert len(row["ms"]) == 2 and row["finite"], "one call in each of two turns"
        assert "sla2_pack" in row["kernels"] and any(name.startswith("sla2_attend") for name in row["kernels"])
    if "missing" not in report["torch"]:
        (peer,) = report["peers"]
        assert peer["backend"] == "math" and len(peer["ms"]) == 2
    text = path.with_suffix(".md").read_text(encoding="utf-8")
    assert "### Shape tiny: N 150, 2 heads, D 64" in text and "attend_fp8_64_linear" in text


def test_a_planted_difference_is_noticed(tmp_path: Path) -> None:
    done = tiny(tmp_path, "--turns", "1", "--planted", gpu="far:90")
    assert done.returncode == 1
    assert "is not as the emulator's table has it" in done.stdout
    (path,) = tmp_path.glob("*.json")
    report = json.loads(path.read_text(encoding="utf-8"))
    assert all(row["different"] > 0 and "lane" in row["first"] for row in report["trials"] if row["tried"])
    assert any(row["instruction"].startswith("wgmma") for row in report["trials"])
    assert any(note.startswith("FAILED") for note in report["notes"])


def test_hopper_runs_both_families(tmp_path: Path) -> None:
    done = tiny(tmp_path, "--turns", "1", "--shapes", "tiny:140:1:128", gpu="far:90")
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.glob("*.json")
    report = json.loads(path.read_text(encoding="utf-8"))
    assert sum(row["instruction"].startswith("wgmma") for row in report["trials"]) == 4
    kernels = {(row["family"], row["bits"]): set(row["kernels"]) for row in report["bench"] if row["sparsity"]}
    assert "sla2_hopper_int8_128_linear" in kernels["", 8] and "sla2_attend_int8_128_linear" in kernels["mma.sync", 8]


def test_the_format_is_held_to() -> None:
    row = {"shape": "A", "tokens": 1, "heads": 1, "dim": 64, "sparsity": 0, "bits": 16, "fp8_values": False, "family": ""}
    good = {name: kind() for name, kind in report_format.FIELDS.items()}
    good.update(format=1, bench=[{**row, "ms": [1.0]}, {**row, "refused": "why"}])
    assert report_format.problems(good) == []
    assert report_format.problems({**good, "bench": [row]}) == ["bench[0]: neither times nor the reason why there are none"]
    assert report_format.problems({**good, "bench": [{**row, "ms": [1.0], "bits": "16"}]}) == ["bench[0].bits: expected int"]
    assert report_format.problems({**good, "more": 1}) == ["more: not a field of the report"]
    assert report_format.problems({**good, "format": 2}) == ["format is 2, expected 1"]


def test_without_a_gpu_one_line_says_so() -> None:
    look = run("--look")
    if look.returncode == 0:
        pytest.skip("this machine has a GPU")
    for words in ((str(SCRIPT), "--look"), (str(SCRIPT),), (str(ROOT / "dev"), "gpu-check")):
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 3
        assert done.stdout.strip().startswith("gpu-check: ") and "\n" not in done.stdout.strip()


def test_dev_names_the_verb() -> None:
    done = subprocess.run([sys.executable, str(ROOT / "dev"), "--help"], capture_output=True, text=True, timeout=60, check=True)
    assert "gpu-check" in done.stdout


def test_the_matrix_in_the_document_is_what_the_library_answers() -> None:
    matrix = load(ROOT / "tests/gpu/matrix.py")
    if not (TREE / "tests/gpu/sla2_gpu_check").exists():
        pytest.skip("this tree has no sla2_gpu_check")
    _, written, _ = matrix.split(matrix.DOCUMENT.read_text(encoding="utf-8"))
    assert written == matrix.generated(TREE), f"python tests/gpu/matrix.py {TREE} --update"
