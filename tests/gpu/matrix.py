# SPDX-License-Identifier: Apache-2.0
"""The matrix in docs/kernels/cuda.md: what runs on which GPU, as the library itself answers.

python tests/gpu/matrix.py BUILD            exit code 1 where the document says something else
python tests/gpu/matrix.py BUILD --update   write it
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[2] / "libsla2/docs/kernels/cuda.md"
FIRST, LAST = "<!-- matrix: tests/gpu/matrix.py writes this -->\n", "<!-- end of matrix -->\n"


def generated(tree: Path) -> str:
    done = subprocess.run([tree / "tests/gpu/sla2_gpu_check", "matrix"], capture_output=True, text=True, check=True)
    return done.stdout


def split(text: str) -> tuple[str, str, str]:
    """Before, between and after the marks."""
    before, mark, rest = text.partition(FIRST)
    middle, end, after = rest.partition(LAST)
    if not mark or not end:
        raise ValueError(f"{DOCUMENT.name} has lost the marks around its matrix")
    return before, middle, after


def main() -> int:
    tree, text = Path(sys.argv[1]), DOCUMENT.read_text(encoding="utf-8")
    before, middle, after = split(text)
    now = generated(tree)
    if "--update" in sys.argv:
        DOCUMENT.write_text(before + FIRST + now + LAST + after, encoding="utf-8")
        return 0
    if now == middle:
        return 0
    print(f"{DOCUMENT.name}: its matrix is not what the library answers: python tests/gpu/matrix.py {tree} --update", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
