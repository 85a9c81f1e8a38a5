# SPDX-License-Identifier: Apache-2.0
"""Every command and every line of C in README.md runs as printed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, build_dir, find_program

README = (ROOT / "README.md").read_text(encoding="utf-8")


def shell_commands() -> list[str]:
    """Lines of the sh blocks without their comments, in order."""
    lines = [line.split("  #")[0].strip() for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]
    return [line for line in lines if line]


def test_the_first_screen_has_exactly_two_set_up_commands() -> None:
    first_block = re.search(r"```sh\n(.*?)```", README, re.DOTALL)
    assert first_block is not None
    assert [line.split("#")[0].strip() for line in first_block.group(1).splitlines()] == ["./dev demo", "./dev test"]
    assert README.index("./dev test") < 1500, "the commands have left the first screen"


def test_demo_command(tmp_path: Path) -> None:
    """./dev demo builds the release preset and leaves a video, a contact sheet and a report."""
    done = subprocess.run([ROOT / "dev", "demo", "-o", tmp_path], cwd=ROOT, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for name in ("demo.mp4", "demo.png", "demo.json", "compare.mp4", "compare.png", "compare.json"):
        assert (tmp_path / name).stat().st_size > 1000, name
        assert name in done.stdout


def test_tool_commands_run_as_printed(tmp_path: Path) -> None:
    tool = find_program("sla2")
    commands = [line for line in shell_commands() if line.startswith("build/release/bin/sla2")]
    assert len(commands) >= 4
    for line in commands:  # in order: later ones use files of earlier ones
        words = [str(tool), *shlex.split(line)[1:]]
        done = subprocess.run(
            words,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
            env={**os.environ, "SLA2_PRESETS": str(ROOT / "presets")},
        )
        assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    assert {p.name for p in tmp_path.iterdir()} >= {"bird.mp4", "again.mp4", "ball.gif", "both.mp4"}


def test_the_wan_command_knows_its_flags(tmp_path: Path) -> None:
    line = next(c for c in re.findall(r"`(sla2 generate[^`]*)`", README) if "wan-1.3b" in c)
    done = subprocess.run(
        [find_program("sla2"), *shlex.split(line)[1:]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "SLA2_PRESETS": str(ROOT / "presets")},
    )
    assert done.returncode == 3, f"only the missing file may be wrong:\n{done.stderr}"
    assert "wan2.1_t2v_1.3B.safetensors" in done.stderr


def test_eight_lines_of_c(tmp_path: Path) -> None:
    code = re.search(r"```c\n(.*?)```", README, re.DOTALL)
    assert code is not None and len(code.group(1).strip().splitlines()) == 8
    (tmp_path / "readme.c").write_text(code.group(1))
    library = find_library()
    program = tmp_path / "readme"
    subprocess.run(["cc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-I", ROOT / "libsla2/include", tmp_path / "readme.c", "-o", program, library,
                    f"-Wl,-rpath,{library.parent}"], check=True)  # fmt: skip
    (tmp_path / "presets").symlink_to(ROOT / "presets")
    done = subprocess.run([program], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    head, pixels = (tmp_path / "clip.ppm").read_bytes().split(b"\n", 1)
    assert head == b"P6 128 2176 255" and len(pixels) == 2176 * 128 * 3 and len(set(pixels)) > 100


def find_library() -> Path:
    found = sorted(build_dir().rglob("libsla2.so"))
    assert found, f"libsla2.so is not built in {build_dir()}"
    return found[0]


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_links_lead_somewhere(target: str) -> None:
    assert (ROOT / target).exists(), target


def test_the_lines_of_python_run_as_printed() -> None:
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert code is not None and len(code.group(1).strip().splitlines()) == 6
    package = build_dir() / "bindings"
    if not any(package.glob("sla2/_sla2*")):
        pytest.skip("built without Python bindings")
    done = subprocess.run(
        [sys.executable, "-c", code.group(1)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "PYTHONPATH": str(package)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    promised = re.search(r"It prints `([^`]*)`", README)
    assert promised is not None and done.stdout.strip() == promised.group(1)
