# SPDX-License-Identifier: Apache-2.0
"""Each failure of sla2.training: one message that says what, where, expected and got; and what is left behind."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path

import pytest
import sla2
import torch
import training_model
from safetensors.torch import load_file, save_file
from sla2 import training
from sla2.training import arms, checkpoint, cli, config, data, models, schema
from sla2.training.stage2 import Trainer

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return training_model.make(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("trian: {steps: 3}", r"c.yaml line 1: section 'trian' is unknown; .*did you mean train\?"),
        ("train:\n  steps: 3\n  lerning_rate: 1", r"c.yaml line 3: key train.lerning_rate is unknown; expected one of steps"),
        ("train:\n  steps: many", r"c.yaml line 2: train.steps is 'many'; expected a whole number"),
        ("train:\n  steps: true", r"train.steps is True; expected a whole number"),
        ("fit: {levels: 0.3}", r"fit.levels is 0.3; expected a list of numbers"),
        ("train:\n\n  lr: -1", r"c.yaml line 3: train.lr is -1; expected above 0"),
        ("attention: {sparsity: 1.5}", r"attention.sparsity is 1.5; expected at least 0 and at most 1"),
        ("attention: {mode: dense}", r"attention.mode is 'dense'; expected one of full, sla2"),
        ("train: 3", r"section train is 3; expected keys and values"),
        ("train: [", r"c.yaml: is not YAML"),
        ("- 1", r"c.yaml: holds a list; expected sections"),
    ],
)
def test_a_bad_configuration_is_named_with_its_line(text, says, tmp_path):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(sla2.Error, match=says):
        config.load(tmp_path / "c.yaml")


def test_overrides_win_and_are_named_when_they_are_wrong(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("train: {steps: 3, lr: 1e-5}\n")
    found = config.load(path, ["train.steps=7", "fit.taus=[0.2, 0.1]", "attention.pack="])
    assert (found.train.steps, found.train.lr, found.fit.taus, found.attention.bits) == (7, 1e-5, [0.2, 0.1], 16)
    assert config.make(found) is found and config.Config(found.as_dict()).as_dict() == found.as_dict()
    with pytest.raises(sla2.ArgumentError, match=r"command line 'train.steps=x': train.steps is 'x'"):
        config.load(path, ["train.steps=x"])
    with pytest.raises(sla2.ArgumentError, match=r"expected section.key=value"):
        config.load(path, ["steps=3"])


def test_the_command_says_one_line_and_returns_one(tmp_path, capsys):
    assert cli.main(["train", str(tmp_path / "none.yaml")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("sla2-train: ") and said.count("\n") == 1 and "there is no such file" in said
    (tmp_path / "c.yaml").write_text("train: {steps: 1}")
    assert cli.main(["train", str(tmp_path / "c.yaml"), "--check", "train.steps=2"]) == 0
    assert "steps: 2" in capsys.readouterr().out
    assert cli.main(["reference"]) == 0
    assert capsys.readouterr().out == schema.reference()


def test_models_that_are_none(tiny, tmp_path):
    with pytest.raises(FileNotFoundError, match="which does not exist; expected a model folder"):
        models.load("")
    with pytest.raises(sla2.FileFormatError, match="holds neither config.json"):
        models.load(tmp_path)
    weights = models.load(tiny["model"]["path"]).state_dict()
    torch.manual_seed(0)
    lacking = {name: value.contiguous() for name, value in weights.items() if "blocks.1.attn1.to_k" not in name}
    save_file(lacking, tmp_path / "lacking.safetensors")
    with pytest.raises(sla2.ModelMismatchError, match=r"lacks 2 weights \(blocks.1.self_attn.k.weight"):
        models.load(tmp_path / "lacking.safetensors", heads=2)
    with pytest.raises(sla2.ModelMismatchError, match="width 64 is no multiple of 128 channels; give model.heads"):
        models.load(tmp_path / "lacking.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{}")
    with pytest.raises(sla2.FileFormatError, match="cannot be read as safetensors"):
        models.load(tmp_path / "broken.safetensors")


def test_layers_and_targets_that_are_not_there(tiny, tmp_path):
    with pytest.raises(sla2.ArgumentError, match="no layer's name ends in attn1.to_query; the blocks have attn1.to_k, "):
        training.train(training_model.changed(tiny, tmp_path, train={"what": "lora"}, lora={"targets": ["attn1.to_query"]}))
    with pytest.raises(sla2.ArgumentError, match="speaks of steps; training sees all noise levels"):
        arms.layer_modes(config.make({"attention": {"schedule": "steps 0-20%: full"}}), 2)
    with pytest.raises(sla2.ArgumentError, match=r"fit.layers \[5\] of 2 layers"):
        training.fit(training_model.changed(tiny, tmp_path, fit={"layers": [5]}))
    with pytest.raises(sla2.ArgumentError, match="brings nothing that learns; set train.what to full or lora"):
        training.train(training_model.changed(tiny, tmp_path, train={"what": "attention"}, attention={"mode": "pooled"}))
    with pytest.raises(sla2.ArgumentError, match="expected a multiple of processes x micro_batch"):
        training.train(training_model.changed(tiny, tmp_path, train={"batch": 4, "micro_batch": 3}))


def pack_of(values: dict, path: Path, **other: object) -> Path:
    geometry = {"layers": 2, "heads": 2, "head_dim": 32, "block_q": 32, "block_k": 16, "kappa": (0.25,), "base_shapes": "x", **other}
    sla2.RouterPack(**geometry).save(path)
    return path


def test_packs_that_do_not_fit(tiny, tmp_path):
    def begin(path: Path) -> None:
        training.train(training_model.changed(tiny, tmp_path / "out", attention={"pack": str(path)}, train={"steps": 0}))

    with pytest.raises(sla2.ModelMismatchError, match="made for a model of 3 layers of 2 heads .* this model has 2 layers of 2 heads"):
        begin(pack_of(tiny, tmp_path / "a.sla2.safetensors", layers=3))
    with pytest.raises(sla2.ArgumentError, match="was made with block_q 128, attention.block_q is 32"):
        begin(pack_of(tiny, tmp_path / "b.sla2.safetensors", block_q=128))
    whole = pack_of(tiny, tmp_path / "c.sla2.safetensors").read_bytes()
    (tmp_path / "d.sla2.safetensors").write_bytes(whole[:40])
    with pytest.raises(sla2.FileFormatError, match="truncated"):
        begin(tmp_path / "d.sla2.safetensors")


def test_data_that_does_not_fit(tiny, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no train_\*.safetensors"):
        data.Samples(tmp_path, "train")
    for split in ("train", "test"):
        data.write_shard(tmp_path / "wide" / f"{split}_0.safetensors", torch.zeros(2, 8, 3, 16, 16), torch.zeros(2, 6, 16))
    with pytest.raises(sla2.ArgumentError, match="latents of 8 channels and contexts of width 16; the model takes 4 and 16"):
        training.train(training_model.changed(tiny, tmp_path / "out", data={"path": str(tmp_path / "wide")}))


def test_shards_that_are_damaged(tiny, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(tiny["data"]["path"], folder)
    shard = folder / "train_0000.safetensors"
    tensors = load_file(shard)
    tensors["latents"][3, 0, 0, 0, 0] = float("nan")
    save_file(tensors, shard)
    with pytest.raises(sla2.FileFormatError, match="sample 3 holds NaN or infinity; write the shard again"):
        data.Samples(folder, "train").read(3)
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(sla2.FileFormatError, match="train_0000.safetensors: the shard cannot be read"):
        data.Samples(folder, "train")
    save_file({"latents": torch.zeros(2, 4, 3, 16, 16), "context": torch.zeros(1, 6, 16)}, shard)
    with pytest.raises(sla2.FileFormatError, match=r"expected \[n,C,F,H,W\] and \[n,L,D\]"):
        data.Samples(folder, "train")
    save_file({"latents": torch.zeros(2, 4, 3, 16, 16), "context": torch.zeros(2, 6, 16)}, shard)
    data.write_shard(folder / "train_0001.safetensors", torch.zeros(2, 4, 3, 8, 8), torch.zeros(2, 6, 16))
    with pytest.raises(sla2.FileFormatError, match="give each size a folder of its own"):
        data.Samples(folder, "train")


def test_a_loss_that_is_none_stops_with_step_and_layer(tiny, tmp_path):
    trainer = Trainer(config.make(training_model.changed(tiny, tmp_path, train={"steps": 4, "batch": 1}, evaluate={"samples": 1})))
    trainer.update(trainer.forward_backward())
    trainer.save()
    handle = trainer.student.blocks[1].ffn.register_forward_hook(lambda _m, _a, out: out * float("nan"))
    with pytest.raises(
        sla2.NumericError, match=r"step 1: the loss is nan; first bad: the output of blocks.1.ffn; the last good checkpoint is of step 1"
    ):
        trainer.forward_backward()
    handle.remove()
    trainer.optimizer.zero_grad(set_to_none=True)
    trainer.forward_backward()
    trainer.student.blocks[0].attn2.to_q.weight.grad[0, 0] = float("inf")
    with pytest.raises(sla2.NumericError, match="the gradient of blocks.0.attn2.to_q.weight holds NaN or infinity"):
        trainer.update(0.0)
    with torch.no_grad():
        trainer.student.proj_out.weight[0, 0] = float("nan")
    with pytest.raises(sla2.NumericError, match="first bad: the weight proj_out.weight"):
        trainer.forward_backward()
    assert checkpoint.steps(tmp_path) == [1]
    state = checkpoint.load(tmp_path, trainer.config)
    assert state is not None and all(torch.isfinite(value).all() for value in state["weights"].values())


def test_a_full_disk_leaves_the_last_checkpoint(tiny, tmp_path):
    trainer = Trainer(config.make(training_model.changed(tiny, tmp_path, train={"steps": 4, "batch": 1}, evaluate={"samples": 1})))
    trainer.save()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    trainer.step = 1
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, hard))  # as a disk with 64 KiB left; the signal is ignored by Python
    try:
        with pytest.raises(sla2.FileWriteError, match="checkpoint of step 1 cannot be written .*last good one is .*step_00000000"):
            trainer.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert checkpoint.steps(tmp_path) == [0] and not list((tmp_path / "checkpoints").glob("*.part"))


def test_going_on_from_damaged_or_foreign_checkpoints(tiny, tmp_path, capsys):
    values = config.make(training_model.changed(tiny, tmp_path))
    for step in (1, 2):
        checkpoint.save(tmp_path, step, {"weights": {"a": torch.ones(3)}}, values, keep=3)
    newest = tmp_path / "checkpoints" / "step_00000002" / "state.pt"
    newest.write_bytes(newest.read_bytes()[:100])
    state = checkpoint.load(tmp_path, values)
    assert state is not None and state["step"] == 1 and "trying the one before" in capsys.readouterr().err
    other = config.make(training_model.changed(tiny, tmp_path, attention={"sparsity": 0.5}))
    with pytest.raises(sla2.ArgumentError, match="made with attention.sparsity 0.75, the configuration says 0.5; give another output.path"):
        checkpoint.load(tmp_path, other)
    (tmp_path / "checkpoints" / "step_00000001" / "state.pt").write_bytes(b"")
    with pytest.raises(sla2.FileFormatError, match="none of the 2 checkpoints can be read"):
        checkpoint.load(tmp_path, values)
