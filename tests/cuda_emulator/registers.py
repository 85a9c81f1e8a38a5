# SPDX-License-Identifier: Apache-2.0
"""The ptxas gate: registers and stack of every CUDA kernel for every architecture, held to a committed table.

    python tests/cuda_emulator/registers.py build/dev             compare what that tree built with registers.txt
    python tests/cuda_emulator/registers.py build/dev --update    write the table anew; review the difference

A spilled register fails for any compiler; register counts are compared where the compiler is the table's. Trees that built fewer
architectures are compared on those.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

TABLE = Path(__file__).with_name("registers.txt")
ENTRY = re.compile(r"Compiling entry function '(\w+)' for 'sm_(\w+)'")
FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
# What ptxas says where it could not leave wgmma products under way.
SERIALIZED = re.compile(r"wgmma.* serialized .*in the function '(\w+)'")


class Use(NamedTuple):
    registers: int
    stack: int
    spilled: int


Uses = dict[tuple[str, str], Use]


def read_logs(tree: Path) -> Uses:
    """(kernel, architecture) -> what ptxas said, from the logs that the build left."""
    found: Uses = {}
    for log in sorted((tree / "generated" / "cuda").glob("*.ptxas")):
        entry, frame = None, (0, 0, 0)
        for line in log.read_text(encoding="utf-8").splitlines():
            if match := ENTRY.search(line):
                entry = (match[1], match[2])
            elif match := FRAME.search(line):
                frame = (int(match[1]), int(match[2]), int(match[3]))
            elif (match := USED.search(line)) and entry:
                found[entry] = Use(int(match[1]), frame[0], frame[1] + frame[2])
    return found


def read_serialized(tree: Path) -> list[str]:
    """Kernels whose asynchronous products ptxas runs one after the other."""
    logs = sorted((tree / "generated" / "cuda").glob("*.ptxas"))
    return [kernel for log in logs for kernel in SERIALIZED.findall(log.read_text(encoding="utf-8"))]


def read_table(path: Path = TABLE) -> tuple[str, Uses]:
    """The compiler the table was made with, and its rows."""
    compiler, rows = "", {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# compiler: "):
            compiler = line.removeprefix("# compiler: ")
        elif line and not line.startswith("#"):
            kernel, architecture, registers, stack, spilled = line.split()
            rows[kernel, architecture] = Use(int(registers), int(stack), int(spilled))
    return compiler, rows


def compiler_of(tree: Path) -> str:
    """nvcc's version as the tree's cache names it; empty where there is none."""
    cache = tree / "CMakeCache.txt"
    match = re.search(r"^SLA2_NVCC:\w+=(.+)$", cache.read_text(encoding="utf-8"), re.MULTILINE) if cache.exists() else None
    if not match or not Path(match[1]).exists():
        return ""
    text = subprocess.run([match[1], "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"release ([\d.]+), V([\d.]+)", text)
    return f"nvcc {version[2]}" if version else ""


def complaints(built: Uses, compiler: str, table_compiler: str, table: Uses) -> list[str]:
    """One sentence for each thing that is not as the table has it."""
    wrong = [f"{kernel} for sm_{arch} spills {use.spilled} bytes" for (kernel, arch), use in built.items() if use.spilled]
    architectures = {arch for _, arch in built}
    expected = {key: use for key, use in table.items() if key[1] in architectures}
    wrong += [f"{kernel} for sm_{arch} is not in the table" for kernel, arch in built.keys() - table.keys()]
    wrong += [f"{kernel} for sm_{arch} is in the table and was not built" for kernel, arch in expected.keys() - built.keys()]
    if compiler == table_compiler:
        wrong += [
            f"{key[0]} for sm_{key[1]}: {built[key].registers} registers and {built[key].stack} bytes of stack; "
            f"the table has {use.registers} and {use.stack}"
            for key, use in expected.items()
            if key in built and built[key][:2] != use[:2]
        ]
    return sorted(wrong)


def main() -> int:
    parser = argparse.ArgumentParser(description="Hold CUDA kernels to the committed table of registers.")
    parser.add_argument("tree", type=Path, help="a build tree configured with SLA2_BUILD_CUDA=ON")
    parser.add_argument("--update", action="store_true", help="write the table")
    args = parser.parse_args()
    built = read_logs(args.tree)
    if not built:
        print(f"{args.tree}: no ptxas logs; configure with -DSLA2_BUILD_CUDA=ON where nvcc is, and build sla2_device", file=sys.stderr)
        return 2
    compiler = compiler_of(args.tree)
    if args.update:
        rows = sorted(built.items(), key=lambda item: (item[0][0], int(re.sub(r"\D", "", item[0][1]))))
        lines = [f"{kernel:<28} {arch:>4} {use.registers:>9} {use.stack:>6} {use.spilled:>8}" for (kernel, arch), use in rows]
        head = ["# Registers per thread, bytes of stack, bytes spilled; written by registers.py --update.", f"# compiler: {compiler}"]
        TABLE.write_text(
            "\n".join([*head, "# kernel                        sm registers  stack  spilled", *lines]) + "\n", encoding="utf-8"
        )
        return 0
    wrong = complaints(built, compiler, *read_table())
    wrong += [f"{kernel}: ptxas serializes its wgmma products" for kernel in read_serialized(args.tree)]
    print("\n".join(wrong) or f"{len(built)} kernels are as in the table")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
