# SPDX-License-Identifier: Apache-2.0
"""train.shard fsdp2: two processes on the CPU are the run of one, hold half each, go on after a kill, and export the same."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sla2
import torch
import training_model
import yaml
from safetensors.torch import load_file
from sla2 import training
from sla2.training import models
from training_model import losses, records

torch.set_num_threads(1)
DRIVER = Path(__file__).with_name("sharded_run.py")
# What a run may ask for besides: five steps of every weight with averages, a clip that bites, four passes a step and uneven evaluations.
ALL = {"train": {"steps": 5, "clip": 0.01}, "evaluate": {"samples": 3, "levels": [0.6]}}
OTHERS = {
    "lora": {"train": {"what": "lora", "steps": 2, "checkpointing": True, "autocast": "bf16"}, "lora": {"rank": 4}},
    "attention": {
        "train": {"what": "attention", "steps": 2, "loss": "flow", "anneal_from": 0.5, "anneal_steps": 2, "anneal_every": 1},
        "attention": {"mode": "sla1"},
        "sample": {"every": 2, "count": 1, "steps": 1},
    },
    "gate": {"train": {"steps": 1, "ema": 0.0, "checkpointing": True}, "attention": {"mode": "sparse_only", "router": "vsa"}},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return training_model.make(tmp_path_factory.mktemp("tiny"))


def sharded(values: dict, out: Path, **train: object) -> dict:
    return training_model.changed(values, out, train={"shard": "fsdp2", **train})


class Pair:
    """Two processes of one group take runs one after the other. They are forked from one that has imported everything already."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        words, pipe = [sys.executable, str(DRIVER)], subprocess.PIPE
        self.parent = subprocess.Popen(words, env=training_model.ENVIRONMENT, stdin=pipe, stdout=pipe, text=True)

    def _read(self) -> list[int]:
        line = self.parent.stdout.readline()
        assert line, "the processes' parent has died"
        return json.loads(line)

    def start(self, *runs: dict) -> list[int]:
        """Their process ids; finished() has to follow."""
        paths = [self.folder / f"{time.monotonic_ns()}_{i}.yaml" for i in range(len(runs))]
        for path, values in zip(paths, runs, strict=True):
            path.write_text(yaml.safe_dump(values))
        self.parent.stdin.write(json.dumps([str(path) for path in paths]) + "\n")
        self.parent.stdin.flush()
        return self._read()

    def finished(self) -> list[int]:
        """Wait for both; their exit codes, less than zero for signals."""
        return self._read()


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    """root/plain: one process. root/sharded: two, killed after step 3 and started again. root/other: step 2's checkpoint, one process."""
    root = tmp_path_factory.mktemp("runs")
    values = training_model.changed(tiny, root / "plain", **ALL)
    training.train(values)
    others = [(name, training_model.changed(tiny, root / name, **own)) for name, own in OTHERS.items()]
    first = [sharded(own, root / f"{name}_sharded") for name, own in others]
    endless = sharded({**values, "checkpoint": {"every": 2, "keep": 9}}, root / "sharded", micro_batch=1, steps=1000)
    pair = Pair(root / "configurations")
    processes = pair.start(*first, endless)
    log, end = root / "sharded" / "log.jsonl", time.monotonic() + 240
    while time.monotonic() < end and not (log.exists() and log.read_text().count('"step", "step": 3')):
        time.sleep(0.02)
    for process in processes:
        os.kill(process, signal.SIGKILL)
    assert pair.finished() == [-signal.SIGKILL] * 2
    saved = sorted((root / "sharded" / "checkpoints").glob("step_*[0-9]"))
    assert saved and int(saved[-1].name[-8:]) < 5, "the run was killed too late for this test"
    shutil.copytree(saved[0], root / "other" / "checkpoints" / saved[0].name)
    again = sharded(endless, root / "sharded", steps=5)
    straight = sharded(endless, root / "straight", steps=5)
    pair.start(again, straight, sharded({**tiny, "model": {**tiny["model"], "name": "bad in one process"}}, root / "bad"))
    for _, own in others:  # meanwhile
        training.train(own)
    assert pair.finished() == [0, 0]
    pair.parent.stdin.close()
    assert pair.parent.wait(timeout=60) == 0
    return root, values


def test_two_processes_are_one_run(runs):
    root, _ = runs
    assert losses(root / "straight") == pytest.approx(losses(root / "plain"), rel=1e-5)
    for key in ("grad_norm", "attention_grad_norm", "alpha_scale", "alpha_bias_least"):
        assert [x[key] for x in records(root / "straight")] == pytest.approx([x[key] for x in records(root / "plain")], rel=1e-4), key
    ours, theirs = (records(root / name, "evaluation")[-1] for name in ("straight", "plain"))
    assert ours["velocity_mse_per_sample"] == pytest.approx(theirs["velocity_mse_per_sample"], rel=1e-3)


@pytest.mark.parametrize("name", OTHERS)
def test_whatever_learns(runs, name):
    root, _ = runs
    tolerance = 2e-3 if name == "lora" else 1e-5  # bfloat16 rounds at 4e-3
    assert losses(root / f"{name}_sharded") == pytest.approx(losses(root / name), rel=tolerance)


def test_sample_clips(runs):
    root, _ = runs
    ours, theirs = (load_file(root / name / "samples" / "step_00000002.safetensors") for name in ("attention_sharded", "attention"))
    for name in ("student", "full"):
        assert (ours[name] - theirs[name]).norm() < 1e-4 * theirs[name].norm()
    assert not torch.equal(ours["student"], ours["full"])


@pytest.mark.parametrize("name", ["straight", "sharded"], ids=["straight", "resumed"])
def test_each_process_holds_its_share(runs, tiny, name):
    root, _ = runs
    weights = sum(p.numel() for p in models.load(tiny["model"]["path"]).parameters())
    state = torch.load(root / "plain" / "checkpoints" / "step_00000005" / "state.pt")
    learned = sum(value.numel() for value in state["weights"].values())
    assert learned > weights
    routers = 2 * 2 * 2 * 32 * 32  # layers, queries and keys, heads: they rest
    whole = {"student": learned + routers, "teacher": weights, "gradients": learned, "averages": learned, "optimizer": 2 * learned}
    for rank in (0, 1):
        held = json.loads((root / name / f"held_{rank}.json").read_text())
        for key, value in whole.items():  # rows of odd counts make one share a little larger
            assert 0.48 < held[key] / value < 0.52, (rank, key)


def test_killed_and_resumed_it_is_the_same_run(runs):
    root, _ = runs
    assert losses(root / "sharded") == losses(root / "straight")
    ours, theirs = (records(root / name, "evaluation")[-1] for name in ("sharded", "straight"))
    assert {**ours} == {**theirs}


def test_another_number_of_processes_goes_on(runs):
    root, values = runs
    metrics = training.train(training_model.changed(values, root / "other"))
    assert losses(root / "other") == pytest.approx(losses(root / "plain")[2:], rel=1e-5)
    assert metrics["velocity_mse_per_sample"] == pytest.approx(
        records(root / "plain", "evaluation")[-1]["velocity_mse_per_sample"], rel=1e-3
    )


def test_the_export_is_that_of_an_unsharded_run(runs):
    root, values = runs
    found = {}
    for name in ("plain", "straight"):
        entry = training.export(training_model.changed(values, root / name))["files"][0]
        found[name] = load_file(entry["weights"])
        assert sla2.RouterPack.load(entry["pack"]).stage == 2
    assert found["plain"].keys() == found["straight"].keys()
    square = lambda x: sum(float(value.double().square().sum()) for value in x)  # noqa: E731
    apart = square(found["plain"][name] - value for name, value in found["straight"].items())
    assert (apart / square(found["plain"].values())) ** 0.5 < 1e-3


def test_a_bad_loss_in_one_process_stops_both(runs):
    root, _ = runs
    said = [(root / "bad" / f"error_{rank}.txt").read_text() for rank in (0, 1)]
    assert said[0].startswith("step 1: the loss is bad in another process; there is no checkpoint yet")
    assert said[1].startswith("step 1: the loss is nan; first bad: the output of blocks.1.ffn")


def test_what_shards_cannot_do_is_said(tiny, tmp_path):
    with pytest.raises(sla2.ArgumentError, match="muon makes whole matrices orthogonal, .* set train.optimizer to adamw"):
        training.train(sharded(tiny, tmp_path, optimizer="muon"))
