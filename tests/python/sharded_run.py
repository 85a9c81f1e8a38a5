# SPDX-License-Identifier: Apache-2.0
"""Pairs of processes for the tests of sharded runs. Each line of the input is a JSON list of configurations' paths, which two forked
processes run one after the other; the answer is their ids, and their exit codes once both are done.

Beside each run's log: held_RANK.json, how many numbers a process held of what, as the last step was taken, and error_RANK.txt, if any.
A model named "bad in one process" computes NaN in the second process after its first step.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

import sla2
import torch
import training_model
import yaml
from sla2.training import config, shard
from sla2.training.stage2 import Trainer


def numbers(tensors: Iterable[torch.Tensor | None]) -> float:
    """By the memory behind them, in float32s: a small view of a large tensor counts as the large one."""
    memory = [shard.local(x).untyped_storage() for x in tensors if x is not None]
    return sum({x.data_ptr(): x.nbytes() for x in memory}.values()) / 4


class Counting(Trainer):
    """Counts before each update, between the backward pass and the optimiser."""

    def forward_backward(self) -> float:
        if self.step == 1 and self.config.model.name == "bad in one process" and not self.main:
            self.student.blocks[1].ffn.register_forward_hook(lambda _module, _args, out: out * float("nan"))
        return super().forward_backward()

    def update(self, loss: float) -> None:
        found = {
            "student": numbers(self.student.parameters()),
            "teacher": numbers(self.teacher.parameters()),
            "gradients": numbers(p.grad for p in self.student.parameters()),
            "averages": numbers(self.ema.shadow.values()),
        }
        super().update(loss)
        found["optimizer"] = numbers(x for state in self.optimizer.state.values() for name, x in state.items() if name != "step")
        (self.out / f"held_{os.environ['RANK']}.json").write_text(json.dumps(found))


def fork(place: dict[str, str], paths: list[str]) -> int:
    """The child's id."""
    child = os.fork()
    if child:
        return child
    code = 1
    signal.alarm(300)  # one that waits for the other in vain ends too
    try:
        os.environ.update(place)
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # the answers' pipe is the parent's
        for path in paths:
            own = config.make(yaml.safe_load(Path(path).read_text()))
            try:
                Counting(own).run()
            except sla2.Error as error:
                (own.folder() / f"error_{os.environ['RANK']}.txt").write_text(str(error))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


for line in sys.stdin:
    children = [fork(place, json.loads(line)) for place in training_model.group()]
    print(json.dumps(children), flush=True)
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]), flush=True)
