# SPDX-License-Identifier: Apache-2.0
"""Kill -9 in every phase but sampling (test_resume.py has that): while the prompt is encoded, while frames are decoded, and around
each rename that gives a file its final name. A final name shows the whole clip or nothing, and the run goes on to the same bytes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess

import pytest
from conftest import ROOT, leftovers

RUN = ("-p", "a green boat on the sea at sunset", "--steps", "3")


@pytest.fixture(scope="module")
def whole(sla2, tiny_model, tmp_path_factory):
    """Every kind of output of the uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    sla2("generate", "-m", tiny_model, *RUN, "-o", folder / "png", "-o", folder / "a.mp4", "-o", folder / "a.gif")
    return folder


def same(path, expected) -> bool:
    if expected.is_dir():
        return leftovers(path) == leftovers(expected) and all(same(path / name, expected / name) for name in leftovers(expected))
    return path.read_bytes() == expected.read_bytes()


@pytest.fixture(scope="module")
def killer(tmp_path_factory, environment):
    """Environment that kills the tool around a rename to a name that ends so."""
    library = tmp_path_factory.mktemp("killer") / "kill_at_rename.so"
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler, "no C compiler"
    source = ROOT / "tests" / "cli" / "kill_at_rename.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True, timeout=60)

    def make(target: str, when: str, count: int = 1):
        return environment | {"LD_PRELOAD": str(library), "KILL_TARGET": target, "KILL_WHEN": when, "KILL_COUNT": str(count)}

    return make


@pytest.mark.parametrize("phase", ["text", "load", "decode"])
def test_kill_in_a_phase(tool, environment, sla2, tiny_model, tmp_path, whole, phase):
    out = tmp_path / "png"
    command = [str(tool), "generate", "-m", str(tiny_model), *RUN, "-o", str(out), "--json", "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment) as process:
        for line in process.stdout:
            event = json.loads(line)
            if event["type"] == "progress" and event["phase"] == phase:
                os.kill(process.pid, signal.SIGKILL)
                break
        process.stdout.close()
        assert process.wait(60) == -9
    assert not out.exists()
    assert (tmp_path / "png.sla2ckpt").is_file()
    sla2("resume", tmp_path / "png.sla2ckpt")
    assert same(out, whole / "png")
    assert leftovers(tmp_path) == ["png"]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", ["png", "a.mp4", "a.gif"])
def test_kill_around_the_final_rename(sla2, tiny_model, tmp_path, whole, killer, name, when):
    out = tmp_path / name
    sla2("generate", "-m", tiny_model, *RUN, "-o", out, env=killer("/" + name, when), code=-9)
    if when == "before":
        assert not out.exists()
    else:
        assert same(out, whole / name)
    sla2("resume", tmp_path / (name + ".sla2ckpt"))
    assert same(out, whole / name)
    assert leftovers(tmp_path) == [name]


@pytest.mark.parametrize("when", ["before", "after"])
def test_kill_while_a_checkpoint_is_renamed(sla2, tiny_model, tmp_path, whole, killer, when):
    for count in (1, 2, 3):
        out = tmp_path / "png"
        sla2("generate", "-m", tiny_model, *RUN, "-o", out, env=killer("/png.sla2ckpt", when, count), code=-9)
        assert not out.exists()
        if (tmp_path / "png.sla2ckpt").exists():
            sla2("resume", tmp_path / "png.sla2ckpt")
        else:  # before the very first: nothing was done yet
            assert (when, count) == ("before", 1)
            sla2("generate", "-m", tiny_model, *RUN, "-o", out)
        assert same(out, whole / "png")
        assert leftovers(tmp_path) == ["png"]
        shutil.rmtree(out)


def plant(folder, *names):
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(b"old")


def test_an_earlier_sequence_is_replaced_as_a_whole(sla2, tiny_model, tmp_path, whole, killer):
    """Frames beyond the new clip's last are gone too; a kill leaves the old clip or the new one."""
    out, old = tmp_path / "png", [f"{i:04d}.png" for i in range(30)]
    plant(out, *old)
    sla2("generate", "-m", tiny_model, *RUN, "-o", out, env=killer("/png", "before"), code=-9)
    assert leftovers(out) == old and (out / "0000.png").read_bytes() == b"old"
    sla2("resume", tmp_path / "png.sla2ckpt", env=killer("/png", "after"), code=-9)
    assert same(out, whole / "png")
    sla2("resume", tmp_path / "png.sla2ckpt")
    assert same(out, whole / "png")
    assert leftovers(tmp_path) == ["png"]


def test_a_folder_with_other_things_keeps_them(sla2, tiny_model, tmp_path, whole, killer):
    """Frames move in one by one after those of an earlier clip have gone; what is no frame stays."""
    out = tmp_path / "png"
    plant(out, "0000.png", "0020.png", "notes.txt", "0001.jpg", "00020.png", "x0001.png")
    others = ["0001.jpg", "00020.png", "notes.txt", "x0001.png"]
    frames = leftovers(whole / "png")
    sla2(
        "generate", "-m", tiny_model, *RUN, "-o", out, env=killer(frames[4], "before", 2), code=-9
    )  # the first gave it its place in the stage
    assert [name for name in leftovers(out) if not name.startswith(".")] == sorted(frames[:4] + others)
    sla2("resume", tmp_path / "png.sla2ckpt")
    assert leftovers(out) == sorted(frames + others)
    assert all((out / name).read_bytes() == b"old" for name in others)
    assert all(same(out / name, whole / "png" / name) for name in frames)


def test_patterns_and_links(sla2, tiny_model, tmp_path, whole):
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real)
    sla2("generate", "-m", tiny_model, *RUN, "-o", link)
    assert link.is_symlink() and same(real, whole / "png")
    pattern = tmp_path / "new" / "deep" / "f_%d.png"
    sla2("generate", "-m", tiny_model, *RUN, "-o", pattern)
    frames = leftovers(whole / "png")
    assert leftovers(pattern.parent) == sorted(f"f_{i}.png" for i in range(len(frames)))
    assert all(same(pattern.parent / f"f_{i}.png", whole / "png" / name) for i, name in enumerate(frames))
    here = tmp_path / "here"
    plant(here, "f_0011.png")
    sla2("generate", "-m", tiny_model, *RUN, "-o", "f_%04d.png", cwd=here)  # the current folder stays the one it is
    assert leftovers(here) == [f"f_{i:04d}.png" for i in range(len(frames))]
