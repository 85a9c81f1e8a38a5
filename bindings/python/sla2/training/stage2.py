# SPDX-License-Identifier: Apache-2.0
"""Stage 2: the model with sparse attention, end to end, beside the frozen full-attention teacher.

Masks are hard, routers rest. With `attention.bits` 8 the forward pass multiplies bytes and the backward pass does not;
`attention.qat_backward` says whose softmax it differentiates (sla2.autograd).
All randomness of a step comes from (seed, step, place in the batch): a run that goes on, or has more processes, sees the same numbers.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from torch import Tensor, nn

from sla2.errors import ArgumentError, FileWriteError, NumericError
from sla2.training import arms, checkpoint, data, evaluate, models, optim, shard
from sla2.training.config import Config, make
from sla2.training.log import Log


class Trainer:
    """A run: everything that is loaded, and one method for each thing that happens."""

    def __init__(self, config: Config) -> None:
        self.config, own = config, config.train
        if own.threads:
            torch.set_num_threads(own.threads)
        if own.device == "cuda" and not torch.cuda.is_available():
            raise ArgumentError("train.device is cuda, but torch sees no such device; set cpu or auto")
        self.accelerator = Accelerator(cpu=own.device == "cpu" or not torch.cuda.is_available())
        self.device, self.main = self.accelerator.device, self.accelerator.is_main_process
        self.share, self.micro = self._shares()
        self.sharded = own.shard == "fsdp2" and self.accelerator.num_processes > 1
        shard.check(config)
        self.out = config.folder()
        torch.manual_seed(own.seed)
        self.samples, self.test = data.Samples(config.data.path, "train"), data.Samples(config.data.path, "test")
        self.teacher = models.load(config.model.path, config.model.heads)
        if not self.sharded:
            self.teacher.to(self.device)
        self.student = copy.deepcopy(self.teacher)
        self.grid = models.grid_of(self.student, torch.empty(self.samples.shape, device="meta"))
        self._check_data()
        self.attachment = arms.install(self.student, config, self.grid)
        self.chosen = optim.choose(self.student, config)
        for name, parameter in self.teacher.named_parameters():  # frozen weights are shared, not held twice
            mine = dict(self.student.named_parameters()).get(name) if own.what != "full" else None
            if mine is not None and name not in self.chosen:
                parameter.data = mine.data
        if self.sharded:  # they go to the device block by block: it never holds a whole model
            shard.split(self.student, self.device)
            shard.split(self.teacher, self.device)
        else:
            self.student.to(self.device)
        self.chosen = {name: p for name, p in self.student.named_parameters() if name in self.chosen}
        if own.checkpointing:
            self.student.enable_gradient_checkpointing()  # type: ignore[operator]
        self.optimizer = optim.build(self.chosen, config)
        self.ema = optim.Ema(self.chosen, own.ema)
        self.step = 0
        self._resume()
        self.model: nn.Module = self.student
        if self.accelerator.num_processes > 1 and self.chosen and not self.sharded:
            self.model = self.accelerator.prepare_model(self.student)
        self.log = Log(self.out, self.step, config.output.tensorboard) if self.main else None
        self.held = data.held_out(self.test, config.evaluate.samples, config.evaluate.levels).to(self.device)
        self.wanted = evaluate.velocities(self.teacher, self.held, self.micro, self.velocity)
        self.last_save = time.monotonic()

    def _shares(self) -> tuple[int, int]:
        """Samples of this process in a step, and of one forward pass."""
        own, processes = self.config.train, self.accelerator.num_processes
        share, rest = divmod(own.batch, processes)
        micro = own.micro_batch or share
        if rest or share % micro:
            raise ArgumentError(f"train.batch is {own.batch} with {processes} processes and micro_batch {micro}; expected a multiple of processes x micro_batch")  # fmt: skip
        return share, micro

    def _check_data(self) -> None:
        settings: Any = self.student.config
        channels, width = self.samples.shape[0], self.samples.context_shape[1]
        if (channels, width) != (settings.in_channels, settings.text_dim):
            raise ArgumentError(
                f"data.path {self.config.data.path}: latents of {channels} channels and contexts of width {width};"
                f" the model takes {settings.in_channels} and {settings.text_dim}: cache them with the model's own VAE and text encoder"
            )
        if (self.test.shape, self.test.context_shape) != (self.samples.shape, self.samples.context_shape):
            raise ArgumentError(f"data.path {self.config.data.path}: test samples are {list(self.test.shape)}, training samples {list(self.samples.shape)}; expected one size")  # fmt: skip

    # ---- one thing each -----------------------------------------------------------------------------------------------------------

    def velocity(self, model: nn.Module, batch: data.Batch) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.train.autocast == "bf16"):
            return evaluate.run_plain(model, batch)

    def sparsity(self, step: int) -> float | None:
        """Sparsity of a step while it anneals; None afterwards."""
        own = self.config.train
        if own.anneal_from is None or step >= own.anneal_steps:
            return None
        share = (step // own.anneal_every * own.anneal_every) / own.anneal_steps
        return float(own.anneal_from + share * (self.config.attention.sparsity - own.anneal_from))

    def forward_backward(self) -> float:
        """Gradients of the next step; its loss over all processes."""
        own, rank, total = self.config.train, self.accelerator.process_index, 0.0
        passes = self.share // self.micro
        for i in range(passes):
            first = rank * self.share + i * self.micro
            batch = data.draw(self.samples, self.step, own.batch, range(first, first + self.micro), seed=own.seed, shift=own.shift,
                              drop_context=self.config.data.drop_context).to(self.device)  # fmt: skip
            if own.loss == "distillation":
                with torch.no_grad():
                    target = self.velocity(self.teacher, batch)
            else:
                target = batch.noise - batch.clean
            waits = i + 1 < passes and self.model is not self.student  # shards never wait: a whole model's gradients would wait with them
            with self.accelerator.no_sync(self.model) if waits else nullcontext():
                loss = (self.velocity(self.model, batch) - target).square().mean()
                bad = not bool(torch.isfinite(loss))
                if self._any(bad):
                    first = evaluate.first_bad(self.student, batch, self.velocity)
                    self._stop(f"the loss is {loss.item()}; first bad: {first}" if bad else "the loss is bad in another process")
                self.accelerator.backward(loss / passes)
            total += float(loss.detach()) / passes
        return float(self.accelerator.reduce(torch.tensor(total, dtype=torch.float64, device=self.device), "mean"))

    def _any(self, here: bool) -> bool:
        """Whether it is so in any process: shards are of use only while all processes do the same."""
        if self.accelerator.num_processes == 1:
            return here
        return bool(self.accelerator.reduce(torch.tensor(float(here), device=self.device), "sum") > 0)

    def _stop(self, what: str) -> None:
        there = checkpoint.steps(self.out)
        last = f"the last good checkpoint is of step {there[-1]}" if there else "there is no checkpoint yet"
        raise NumericError(
            f"step {self.step}: {what}; {last}, in {self.out / 'checkpoints'}; lower train.lr or train.clip, then go on from it"
        )

    def update(self, loss: float) -> None:
        """One optimiser step from the gradients that are there."""
        own = self.config.train
        norm = optim.norms(self.chosen.values())
        if norm != norm or norm == float("inf"):
            bad = next(name for name, p in self.chosen.items() if p.grad is not None and not torch.isfinite(shard.whole(p.grad)).all())
            self._stop(f"the gradient of {bad} holds NaN or infinity")
        if own.clip and norm > own.clip:
            optim.clip(self.chosen.values(), norm, own.clip)
        attention_norm = optim.norms(p for name, p in self.chosen.items() if ".sla2." in name)
        factor = optim.rate(self.step, self.config)
        optim.set_rate(self.optimizer, factor)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update()
        self.step += 1
        facts = evaluate.alpha_facts(self.student) if self.log or self.sharded else {}
        if self.log:
            self.log.write("step", self.step, loss=loss, grad_norm=norm, attention_grad_norm=attention_norm, lr=own.lr * factor, **facts)

    def evaluate(self) -> dict[str, Any]:
        """Held-out metrics with the averaged weights, if there are any. Every process takes its share, the last one again where it
        would else run fewer than the others: shards need all of them at every pass."""
        count, here, processes = len(self.held.sigma), self.accelerator.process_index, self.accelerator.num_processes
        own = list(range(here, count, processes))
        taken = own + [count - 1] * (-(-count // processes) - len(own))
        levels = self.config.evaluate.levels
        found = torch.zeros_like(self.held.clean)
        with self.ema if self.ema.shadow else nullcontext():
            arms.set_sparsity(self.student, self.config, None)
            picked = data.Batch(*(x[taken] for x in (self.held.clean, self.held.noise, self.held.sigma, self.held.context)))
            found[own] = evaluate.velocities(self.student, picked, self.micro, self.velocity)[: len(own)]
            found = self.accelerator.reduce(found, "sum")
            metrics = {"step": self.step, **evaluate.compare(found, self.wanted, self.held, levels)}
            looked = min(self.config.evaluate.attention_samples * len(levels), count)
            if looked:
                metrics |= evaluate.attention_errors(self.student, self.held.part(0, looked), self.micro, self.velocity)
        if self.log:
            self.log.write("evaluation", **metrics)
            print(
                f"step {self.step}: held-out velocity error {metrics['velocity_error']:.5f}, flow loss {metrics['flow_loss']:.5f}",
                flush=True,
            )
        return metrics

    # ---- checkpoints --------------------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Whole tensors, written by the first process: the same file with any number of processes, with shards and without."""
        if self.main or self.sharded:
            state = {
                "weights": self._gather(self.chosen),
                "optimizer": shard.gather(self.optimizer, self.main),
                "ema": {"count": self.ema.count, "shadow": self._gather(self.ema.shadow)},
                "random": torch.get_rng_state(),
            }
            if self.main:
                checkpoint.save(self.out, self.step, state, self.config, self.config.checkpoint.keep)
        self.last_save = time.monotonic()

    def _gather(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors on the CPU of the first process, one after the other; the other processes keep none."""
        found = {}
        for name, value in tensors.items():
            full = shard.whole(value)
            if self.main:
                found[name] = full.cpu()
        return found

    def _resume(self) -> None:
        state = checkpoint.load(self.out, self.config)
        if state is None:
            return
        restore(self.chosen, state["weights"])
        shard.scatter(self.optimizer, state["optimizer"])
        self.ema.count = state["ema"]["count"]
        for name, value in self.ema.shadow.items():
            value.copy_(shard.like(value, state["ema"]["shadow"][name]))
        torch.set_rng_state(state["random"])
        self.step = state["step"]
        if self.main:
            print(f"goes on from step {self.step} ({self.out / 'checkpoints'})", flush=True)

    def sample(self) -> None:
        """Clips with the averaged weights, if there are any. One process suffices where it holds the model."""
        from sla2.training import sample

        if self.main or self.sharded:
            with self.ema if self.ema.shadow else nullcontext():
                clips = sample.pair(self.student, self.teacher, self.test, self.config, self.velocity)
            if self.main:
                sample.write(clips, self.config, self.step)

    # ---- all of it ----------------------------------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        own, metrics = self.config, self.evaluate() if self.step == 0 else {}
        while self.step < own.train.steps:
            arms.set_sparsity(self.student, own, self.sparsity(self.step))
            self.update(self.forward_backward())
            last = self.step == own.train.steps
            if last or self.step % own.evaluate.every == 0:
                metrics = self.evaluate()
            late = time.monotonic() - self.last_save > 60 * own.checkpoint.minutes
            if last or self.step % own.checkpoint.every == 0 or self._any(late):
                self.save()
            if own.sample.every and (last or self.step % own.sample.every == 0):
                self.sample()
        if not metrics:
            metrics = self.evaluate()
        if self.main:
            _write_result(self.out / "result.json", metrics)
        if self.log:
            self.log.close()
        return metrics


@torch.no_grad()
def restore(chosen: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Copy saved weights into those that learn. Raises ArgumentError where the sets differ."""
    if chosen.keys() != weights.keys():
        odd = sorted(chosen.keys() ^ weights.keys())
        raise ArgumentError(f"the checkpoint and the configuration train other weights: {', '.join(odd[:3])}; give another output.path")
    for name, value in weights.items():
        chosen[name].copy_(shard.like(chosen[name], value))


def _write_result(path: Any, metrics: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise FileWriteError(f"{path}: cannot be written: {error}; check the free space") from error


def run(values: Mapping[str, Any] | Config) -> dict[str, Any]:
    """Train by a configuration; returns the last evaluation's metrics."""
    return Trainer(make(values)).run()
