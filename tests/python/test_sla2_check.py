# SPDX-License-Identifier: Apache-2.0
"""What sla2_check says beside PASS and FAIL: timings with what they mean nothing without, errors of each precision, the table of ops."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from conftest import find_program

FORWARD, BACKWARD = "mode=sla2 N=300 D=32 sparsity=0.6 H=2", "dir=bwd mode=sla2 N=150 D=32 sparsity=0.5 block_q=32 block_k=32"


def check(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([find_program("sla2_check"), *map(str, words)], capture_output=True, text=True, timeout=120, check=False)


def bench(*words: object) -> subprocess.CompletedProcess[str]:
    return check("--bench", "--isa", "best", "--threads", 1, "--repeats", 3, "--case", FORWARD, "--case", BACKWARD, *words)


def test_a_timing_says_where_it_comes_from(tmp_path: Path) -> None:
    now = tmp_path / "now.json"
    done = bench("--json", now, "--csv", tmp_path / "now.csv")
    assert done.returncode == 0, done.stderr
    report = json.loads(now.read_text())
    assert re.fullmatch(r"([0-9a-f]{7,40}(-dirty)?|unknown)", report["commit"])
    assert 0.5 < report["clock_ghz"] < 10
    assert re.match(r"(gcc|clang) \d+", report["compiler"]) and report["cpu"]
    forward, backward = report["timings"]
    assert "dir=bwd" not in forward["case"] and "dir=bwd" in backward["case"]
    for row in report["timings"]:
        assert row["median_s"] > 0 and row["dense_ratio"] > 0 and row["scalar_ratio"] > 0
    # q, k, v and out of two heads, 4 bytes a number; 2 of 5 blocks kept.
    assert abs(forward["gigabytes_per_s"] * forward["median_s"] * 1e9 / (4 * 4 * 300 * 32 * 2) - 1) < 1e-9
    assert abs(forward["executed_gflops"] * forward["median_s"] * 1e9 / (4 * 300 * 300 * 32 * 2 * 0.4) - 1) < 1e-9
    assert abs(backward["executed_gflops"] * backward["median_s"] * 1e9 / (10 * 150 * 150 * 32 * 0.6) - 1) < 1e-9  # 3 of 5
    assert len((tmp_path / "now.csv").read_text().splitlines()) == 3


def test_slower_than_before_ends_with_1(tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    assert bench("--json", old).returncode == 0
    report = json.loads(old.read_text())
    for row in report["timings"]:
        row["median_s"] /= 100
    old.write_text(json.dumps(report))
    done = bench("--compare", old)
    assert done.returncode == 1 and "2 slower than" in done.stdout


def test_errors_grow_with_what_is_left_out() -> None:
    done = check(
        "--errors",
        "--isa",
        "best",
        "--case",
        "mode=full N=150 N_kv=300 D=64 fill=channels",
        "--case",
        "mode=sla2 N=150 N_kv=300 D=64 sparsity=0.6",
    )
    assert done.returncode == 0, done.stderr
    header, _, *rows = (line for line in done.stdout.splitlines() if line.startswith("|"))
    assert [word.strip() for word in header.split("|")[2:-1]] == ["fp32", "bf16", "8 bits", "8 bits, P·V in e4m3"]
    assert len(rows) == 2
    for row in rows:
        assert row.startswith("| `mode=")
        if "not on" in row:
            continue  # this CPU takes fp32 in their place
        cells = [cell.strip().split(" / ") for cell in row.split("|")[2:-1]]
        relative_l1 = [float(cell[0]) for cell in cells]
        assert relative_l1[0] < 1e-5 < relative_l1[1] < relative_l1[2] < relative_l1[3] < 0.05
        assert all(float(cell[1]) < 1e-3 for cell in cells)


def test_ops_are_listed_with_their_versions() -> None:
    done = check("--op", "attend_*")
    assert done.returncode == 0
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert list(lines) == ["attend_bf16", "attend_int8", "attend_fp8"]
    assert "avx512_bf16" in lines["attend_bf16"] and "plain code only" in lines["attend_fp8"]
    done = check("--op", "attend")
    assert done.returncode == 2 and "no op is called 'attend'" in done.stderr


def test_a_fused_line_that_cannot_be_is_refused() -> None:
    done = check("--case", "mode=full N=200 N_kv=450 layout=fused")
    assert done.returncode == 2 and "expected N_kv = N and H_kv = H" in done.stderr


def test_every_list_can_be_read() -> None:
    lists = sorted(path.stem for path in (Path(__file__).resolve().parents[1] / "check/lists").glob("*.txt"))
    assert {"smoke", "ci", "nightly", "wan_1_3b", "wan_14b"} <= set(lists)
    done = check(*lists, "--list")
    assert done.returncode == 0, done.stderr
    assert "N=75600" in done.stdout and "dir=bwd H=2 N=32760" in done.stdout
