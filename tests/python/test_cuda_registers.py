# SPDX-License-Identifier: Apache-2.0
"""The ptxas gate notices what it is there for; and, in a tree built with nvcc, holds every kernel to the table."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load_gate() -> ModuleType:
    path = ROOT / "tests/cuda_emulator/registers.py"
    spec = importlib.util.spec_from_file_location("registers", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


gate = load_gate()


def test_every_kernel_stands_in_the_table() -> None:
    names = re.findall(r'\{"(sla2_\w+)", "', (ROOT / "libsla2/src/kernels/cuda/modules.h").read_text(encoding="utf-8"))
    _, table = gate.read_table()
    assert {kernel for kernel, _ in table} == set(names)
    architectures = {arch for _, arch in table} - {"90a"}
    hopper = {name for name in names if name.startswith("sla2_hopper_")}
    expected = {(name, arch) for name in set(names) - hopper for arch in architectures} | {(name, "90a") for name in hopper}
    assert set(table) == expected, "every kernel for every architecture, those with wgmma for sm_90a"
    assert not [key for key, use in table.items() if use.spilled]


def test_the_gate_reads_what_ptxas_writes(tmp_path: Path) -> None:
    log = tmp_path / "generated/cuda/x.ptxas"
    log.parent.mkdir(parents=True)
    log.write_text(
        "ptxas info    : Compiling entry function 'sla2_pool' for 'sm_80'\n"
        "ptxas info    : Function properties for sla2_pool\n"
        "    16 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads\n"
        "ptxas info    : Used 40 registers, used 1 barriers, 416 bytes cmem[0]\n"
    )
    built = gate.read_logs(tmp_path)
    assert built == {("sla2_pool", "80"): gate.Use(40, 16, 12)}
    table = {("sla2_pool", "80"): gate.Use(38, 16, 0), ("sla2_pack", "80"): gate.Use(1, 0, 0), ("sla2_pack", "90"): gate.Use(1, 0, 0)}
    same, other = gate.complaints(built, "a", "a", table), gate.complaints(built, "b", "a", table)
    assert len(same) == 3 and len(other) == 2, "spills and missing kernels always; registers for the table's compiler"


def test_the_gate_sees_serialized_products(tmp_path: Path) -> None:
    log = tmp_path / "generated/cuda/x.ptxas"
    log.parent.mkdir(parents=True)
    log.write_text(
        "ptxas info    : (C7514) Potential Performance Loss: wgmma.mma_async instructions are serialized due to non wgmma instructions "
        "reading accumulator registers of  a wgmma between start and end of the pipeline stage in the function 'sla2_hopper_x'\n"
    )
    assert gate.read_serialized(tmp_path) == ["sla2_hopper_x"]


def test_kernels_are_as_in_the_table() -> None:
    tree = ROOT / (os.environ.get("SLA2_KERNELS") or os.environ.get("SLA2_BUILD", "build/dev"))
    built = gate.read_logs(tree)
    if not built:
        pytest.skip("no kernels were compiled: no nvcc (./dev test compiles them for one architecture, ./dev check cuda for all)")
    assert not gate.complaints(built, gate.compiler_of(tree), *gate.read_table())
    assert not gate.read_serialized(tree)
