# SPDX-License-Identifier: Apache-2.0
"""The Python package as people use it: models, jobs, errors. Arrays are compared with the C door's own frames (sla2_ctypes)."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import need_package

sla2 = need_package()

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "presets" / "models" / "small_world"
PROMPT = "a large red ball moves left over a green field"
QUICK = {"width": 64, "height": 64, "frames": 5, "steps": 3, "seed": 7, "threads": 1}


@pytest.fixture(scope="module")
def model():
    return sla2.Model.load(MODEL)


def run_python(code: str, **env: str) -> str:
    path = os.pathsep.join([str(Path(sla2.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path, **env}, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_is_quick_and_brings_no_torch():
    code = "import sys, time; t = time.perf_counter(); import sla2; sla2.params(); print(time.perf_counter() - t, 'torch' in sys.modules)"
    runs = [run_python(code).split() for _ in range(3)]
    assert min(float(seconds) for seconds, _ in runs) < 0.3
    assert all(torch == "False" for _, torch in runs)


def test_every_name_in_all_is_there():
    assert all(getattr(sla2, name) is not None for name in sla2.__all__)
    assert set(sla2.__all__) <= set(dir(sla2))
    with pytest.raises(AttributeError, match="has no attribute 'modle'"):
        _ = sla2.modle


def test_frames_come_in_order_and_are_those_of_the_c_door(model):
    from sla2_ctypes import Sla2, run_job

    seen = []
    clip = model.generate(PROMPT, on_progress=seen.append, **QUICK)
    frames = list(clip)
    assert [frame.shape for frame in frames] == [(64, 64, 3)] * 5 and frames[0].dtype == np.uint8
    fractions = [p["fraction"] for p in seen]
    assert fractions == sorted(fractions) and seen[-1]["phase"] == "done"
    assert {p["phase"] for p in seen} >= {"sample", "decode", "done"}
    report = clip.report
    assert report["finished"] is True and report["settings"]["steps"] == 3

    c = Sla2()
    run = run_job(c, c.open(MODEL), {"prompt": PROMPT, **QUICK})
    assert np.array_equal(np.stack(frames), run.frames)


def test_frames_at_once_and_a_preset_with_changes(model):
    preset = json.loads((ROOT / "presets" / "demo.json").read_text())
    one = model.generate(PROMPT, preset=ROOT / "presets" / "demo.json", **QUICK).frames()
    two = model.generate(PROMPT, preset=preset, **QUICK).frames()
    assert one.shape == (5, 64, 64, 3) and np.array_equal(one, two)


def test_previews(model):
    previews = []
    model.generate(PROMPT, preview_every=1, on_preview=lambda step, frames: previews.append((step, frames.shape)), **QUICK).frames()
    assert previews and all(shape[-1] == 3 and len(shape) == 4 for _, shape in previews)


def test_cancel_and_resume_give_the_same_bytes(model, tmp_path):
    whole = model.generate(PROMPT, **QUICK).frames()
    checkpoint = tmp_path / "state.sla2ckpt"

    def stop(progress):
        if progress["phase"] == "sample" and progress["step"] >= 1:
            clip.cancel()

    clip = model.generate(PROMPT, checkpoint=checkpoint, on_progress=stop, **QUICK)
    try:
        clip.frames()
    except sla2.CancelledError as error:
        assert error.name == "SLA2_E_CANCELLED"
    else:
        pytest.skip("the job ended before it could be cancelled")
    assert sla2.checkpoint_params(checkpoint)["prompt"] == PROMPT
    assert np.array_equal(model.resume(checkpoint).frames(), whole)


def test_an_exception_in_a_callback_ends_the_job(model):
    def fail(_):
        raise KeyError("mine")

    clip = model.generate(PROMPT, on_progress=fail, **QUICK)
    with pytest.raises(KeyError, match="mine"):
        clip.frames()
    with pytest.raises(StopIteration):
        next(clip)


def test_dropping_a_running_job_stops_it(model):
    started = time.monotonic()
    clip = model.generate(PROMPT, **{**QUICK, "steps": 1000})
    del clip
    gc.collect()
    assert time.monotonic() - started < 30
    with model.generate(PROMPT, **{**QUICK, "steps": 1000}) as clip:
        pass
    with pytest.raises(sla2.CancelledError):
        next(clip)


def test_two_threads_share_a_model(model):
    results = {}

    def work(seed):
        results[seed] = model.generate(PROMPT, **{**QUICK, "seed": seed}).frames()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.array_equal(results[1], model.generate(PROMPT, **{**QUICK, "seed": 1}).frames())
    assert not np.array_equal(results[1], results[2])


@pytest.mark.parametrize(
    ("call", "kinds", "words"),
    [
        (lambda m: sla2.Model.load("nowhere"), (sla2.FileMissingError, FileNotFoundError), "nowhere"),
        (lambda m: sla2.Model.load(__file__), (sla2.FileFormatError, ValueError), "test_bindings.py"),
        (lambda m: m.generate(PROMPT, stepz=3), (sla2.ArgumentError, ValueError), 'did you mean "steps"'),
        (lambda m: m.generate(PROMPT, steps=-1), (sla2.ArgumentError, ValueError), "out of range"),
        (lambda m: m.generate(PROMPT, width=72), (sla2.ArgumentError, ValueError), "72"),
        (lambda m: m.generate(PROMPT, memory_limit=1), (sla2.OutOfMemoryError, MemoryError), "memory"),
        (lambda m: m.generate(PROMPT, preset="no.json"), (FileNotFoundError,), "preset"),
        (lambda m: m.resume("no.ckpt"), (sla2.FileMissingError,), "no.ckpt"),
    ],
)
def test_errors_say_what_and_are_pythons_own_kinds(model, call, kinds, words):
    with pytest.raises(kinds[0]) as caught:
        call(model)
    assert all(isinstance(caught.value, kind) for kind in kinds)
    assert words in str(caught.value)


def test_the_table_is_the_librarys(model):
    rows = {row["name"]: row for row in sla2.params()}
    assert rows["steps"]["type"] == "int" and rows["steps"]["minimum"] == 1
    assert set(rows["sampler"]["choices"]) >= {"euler", "unipc"}


def test_info_tells_the_kind():
    assert "DiT" in sla2.info(MODEL / "dit.safetensors")["summary"]
    assert sla2.system_info()["isa"]


def test_ctrl_c_reaches_python_while_the_job_runs():
    code = (
        "import _thread, signal, sla2, threading\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a job in the background inherits that SIGINT is ignored
        f"m = sla2.Model.load({str(MODEL)!r})\n"
        f"c = m.generate({PROMPT!r}, width=64, height=64, frames=5, steps=1000, threads=1)\n"
        "threading.Timer(0.5, _thread.interrupt_main).start()\n"
        "try: c.frames()\n"
        "except KeyboardInterrupt: print('interrupted')\n"
    )
    assert run_python(code).strip() == "interrupted"
