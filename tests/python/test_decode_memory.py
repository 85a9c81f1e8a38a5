# SPDX-License-Identifier: Apache-2.0
"""A decode that runs out of memory goes on in tiles, and a stopped one with tiles of one's choice. The allocations really fail:
the child lowers its own address space when decoding begins."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sla2_ctypes as s

CHILD = """
import json, resource, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import sla2_ctypes as s
folder, values, room, out = sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
def begin(*_):
    size = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize:")) << 10
    resource.setrlimit(resource.RLIMIT_AS, (size + room, resource.RLIM_INFINITY))
sla2 = s.Sla2()
run = s.run_job(sla2, sla2.open(folder), values, on_decode=begin)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
if run.frames is not None:
    np.save(out, run.frames)
print(json.dumps({"status": run.status, "error": run.error, "report": run.report}))
"""
BIG = {"prompt": "a red ball", "width": 512, "height": 512, "frames": 5, "steps": 1, "cfg_scale": 1, "preview_every": 0, "threads": 1}


def run_child(folder, room, out, **more) -> dict:
    arguments = [str(Path(__file__).parent), str(folder), json.dumps(BIG | more), str(room), str(out)]
    done = subprocess.run([sys.executable, "-c", CHILD, *arguments], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_out_of_memory_gives_way_to_tiles(sla2, folder, tmp_path):
    model = sla2.open(folder)
    path = tmp_path / "job.ckpt"
    whole = s.run_job(sla2, model, BIG | {"checkpoint": path})
    need = whole.report["memory"]["planned_decode_bytes"]
    assert need > 64 << 20

    # Room for small allocations, which oneDNN does not check, and not for the frames in flight.
    child = run_child(folder, need // 4, tmp_path / "tiles.npy")
    assert child["status"] == s.OK, child["error"]
    fallbacks = child["report"]["fallbacks"]
    print(fallbacks)
    assert "decoding on the CPU did not do" in fallbacks[0] and "tiles are blended, not exact" in fallbacks[0]
    tile = int(fallbacks[-1].split("tiles of ")[-1].split(" px")[0])
    assert child["report"]["device"]["vae"] == f"the CPU in tiles of {tile} px"
    same = s.run_job(sla2, model, {"vae_tile": tile}, resume=path)  # free now: all steps are done
    assert np.array_equal(np.load(tmp_path / "tiles.npy"), same.frames)

    small = s.run_job(sla2, model, {"vae_tile": 64}, resume=path)
    assert small.status == s.OK, small.error
    assert small.report["device"]["vae"] == "the CPU in tiles of 64 px" and small.frames.shape == whole.frames.shape
    exact = s.run_job(sla2, model, {"vae_tile": 0}, resume=path)
    assert np.array_equal(exact.frames, whole.frames)


def test_decoding_is_free_only_once_all_steps_are_done(sla2, folder, tmp_path):
    path = tmp_path / "job.ckpt"
    values = {"prompt": "a red ball", "steps": 3, "checkpoint": path}
    s.run_job(sla2, sla2.open(folder), values, on_step=lambda step, cancel, _: cancel() if step == 1 else None)
    for change in ({"vae_tile": 128}, {"vae_precision": "bf16"}):
        with pytest.raises(s.Failure, match="until the last step is done") as refused:
            s.run_job(sla2, sla2.open(folder), change, resume=path)
        assert refused.value.status == s.E_ARGUMENT
