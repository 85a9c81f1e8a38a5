# SPDX-License-Identifier: Apache-2.0
"""sla2.training end to end on a tiny Wan model: stage 2, going on after a kill, two processes, stage 1, export."""

from __future__ import annotations

import hashlib
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import training_model
import yaml
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_wan_lora_to_diffusers
from PIL import Image
from safetensors.torch import load_file
from sla2 import RouterPack, packs, training
from sla2.errors import FileWriteError
from sla2.training import arms, config, data, files, models
from sla2.training import exports as exporting
from sla2.training import layer_choice as scheduling
from sla2.training import stage1 as fitting
from sla2.training.router import Piece
from training_model import losses, records

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return training_model.make(tmp_path_factory.mktemp("tiny"))


def command(folder: Path, values: dict, *words: str) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    return [sys.executable, "-m", "sla2.training", "train", str(folder / "config.yaml"), *words]


@pytest.fixture(scope="module")
def plain(tiny, tmp_path_factory):
    """Five steps in one go, every weight."""
    out = tmp_path_factory.mktemp("plain")
    metrics = training.train(training_model.changed(tiny, out, train={"steps": 5}))
    return out, metrics


def test_the_record_of_a_run(plain):
    out, metrics = plain
    first, last = records(out, "evaluation")[0], records(out, "evaluation")[-1]
    assert first["step"] == 0 and last["step"] == 5 == metrics["step"]
    assert first["velocity_error"] > 0 and metrics["velocity_error"] == last["velocity_error"]
    assert len(metrics["velocity_error_by_level"]) == 2 and len(metrics["velocity_mse_per_sample"]) == 4
    assert 0 < metrics["attention_error"] < 1 and metrics["sparsity"] == pytest.approx(0.75)
    assert {"loss", "grad_norm", "attention_grad_norm", "alpha_scale", "alpha_bias", "lr"} <= records(out)[0].keys()
    assert [line["lr"] for line in records(out)][:2] == [5e-4, 1e-3]
    echoed = yaml.safe_load((out / "checkpoints" / "step_00000005" / "config.yaml").read_text())
    assert echoed["attention"]["sparsity"] == 0.75 and echoed["lora"]["rank"] == 32


def test_killed_and_resumed_it_is_the_same_run(tiny, plain, tmp_path):
    values = training_model.changed(tiny, tmp_path / "out", train={"steps": 1000}, checkpoint={"every": 2, "keep": 1})
    process = subprocess.Popen(command(tmp_path, values), env=training_model.ENVIRONMENT, stdout=subprocess.DEVNULL)
    log, end = tmp_path / "out" / "log.jsonl", time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None and not (log.exists() and log.read_text().count('"step", "step": 3')):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    (saved,) = (tmp_path / "out" / "checkpoints").glob("step_*[0-9]")  # keep 1
    assert 0 < int(saved.name[-8:]) < 5, "the run was killed too late for this test"
    values["train"]["steps"] = 5
    metrics = training.train(values)
    assert losses(tmp_path / "out") == losses(plain[0])
    assert metrics["velocity_mse_per_sample"] == plain[1]["velocity_mse_per_sample"]  # averages of weights went on as well


def test_two_processes_are_one_run(tiny, plain, tmp_path):
    values = training_model.changed(tiny, tmp_path / "out", train={"steps": 5, "micro_batch": 1})  # accumulation on top
    words = command(tmp_path, values)
    processes = [
        subprocess.Popen(words, env=training_model.ENVIRONMENT | place, stdout=subprocess.DEVNULL) for place in training_model.group()
    ]
    assert [process.wait(timeout=180) for process in processes] == [0, 0]
    assert losses(tmp_path / "out") == pytest.approx(losses(plain[0]), rel=1e-5)
    ours, theirs = records(tmp_path / "out", "evaluation")[-1], plain[1]
    assert ours["velocity_mse_per_sample"] == pytest.approx(theirs["velocity_mse_per_sample"], rel=1e-3)


def test_checkpointed_activations_and_eight_bits(tiny, plain, tmp_path):
    again = training_model.changed(tiny, tmp_path / "a", train={"steps": 2, "checkpointing": True})
    training.train(again)
    assert losses(tmp_path / "a") == losses(plain[0])[:2]
    eight = training_model.changed(tiny, tmp_path / "b", train={"steps": 2, "autocast": "bf16"}, attention={"bits": 8})
    training.train(eight)
    assert losses(tmp_path / "b") == pytest.approx(losses(plain[0])[:2], rel=0.2)
    assert losses(tmp_path / "b") != losses(plain[0])[:2]


@pytest.mark.parametrize(
    "attention",
    [
        {"mode": "sla1"},
        {"mode": "sparse_only", "router": "vsa"},
        {"mode": "sparse_only", "router": "vmoba", "top_p": 0.4},
        {"mode": "sparse_only", "router": "sparge", "rule": "hybrid"},
        {"schedule": "full; layers -1: linear_only", "token_order": "tile:4x4x4"},
        {"mode": "full"},
    ],
    ids=lambda x: " ".join(map(str, x.values())),
)
def test_every_arm_trains(tiny, attention, tmp_path):
    values = training_model.changed(
        tiny, tmp_path, attention=attention, train={"steps": 1, "batch": 2, "loss": "flow", "optimizer": "muon"}
    )
    metrics = training.train(values)
    assert metrics["step"] == 1 and metrics["velocity_error"] > 0
    assert len(metrics.get("attention_error_by_layer", {})) == {"full": 0}.get(attention.get("mode"), 1 if "schedule" in attention else 2)


def test_sparsity_anneals_and_learning_rates_fall(tiny, tmp_path):
    from sla2.training.optim import rate
    from sla2.training.stage2 import Trainer

    own = {"steps": 40, "anneal_from": 0.25, "anneal_steps": 20, "anneal_every": 5, "warmup": 4, "decay": "cosine"}
    trainer = Trainer(config.make(training_model.changed(tiny, tmp_path, train=own)))
    assert [trainer.sparsity(step) for step in (0, 4, 5, 19, 20)] == [0.25, 0.25, 0.375, 0.625, None]
    arms.set_sparsity(trainer.student, trainer.config, 0.25)
    assert {module.sparsity for module in arms.modules(trainer.student).values()} == {0.25}
    assert (
        rate(0, trainer.config) == 0.25 and rate(20, trainer.config) == pytest.approx(0.5) and rate(40, trainer.config) == pytest.approx(0)
    )


def test_the_order_of_samples_and_their_noise():
    seen = data.order(10, 0, 20, seed=3)
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10)) and seen[:10] != seen[10:]
    assert data.order(10, 7, 6, seed=3) == seen[7:13]
    assert torch.equal(torch.rand(3, generator=data.generator(1, 2)), torch.rand(3, generator=data.generator(1, 2)))
    assert not torch.equal(torch.rand(3, generator=data.generator(1, 2)), torch.rand(3, generator=data.generator(2, 1)))


# ---- stage 1 ----------------------------------------------------------------------------------------------------------------------


def spiky(seed: int, heads: int = 2, tokens: int = 256, dim: int = 32, block: int = 16) -> tuple[torch.Tensor, ...]:
    """Heads whose mass lies in three blocks with one strong key each. A block's mean hides it: sixteen times weaker there than a channel
    in which all keys of a block agree. A router finds them by lowering that channel and raising the other."""
    random = torch.Generator().manual_seed(seed)
    q, k = (0.1 * torch.randn(1, heads, tokens, dim, generator=random) for _ in range(2))
    q[..., 0] += 7
    q[..., 1] += 4
    k[..., 1] += 1.2 * torch.randn(1, heads, tokens // block, generator=random).repeat_interleave(block, 2)
    for head in range(heads):
        for i in torch.randperm(tokens // block, generator=random)[:3].tolist():
            k[0, head, i * block + int(torch.randint(block, (), generator=random)), 0] += 8
    return q, k, torch.randn(1, heads, tokens, dim, generator=random)


@pytest.mark.parametrize(
    "own", [{}, {"straight_through": True}, {"kl_steps": 20, "steps": 10}], ids=["soft", "straight through", "kl first"]
)
def test_fitting_lowers_the_hard_error_where_routing_matters(own):
    values = config.make(
        {
            "attention": {"sparsity": 0.8, "block_q": 32, "block_k": 16},
            "fit": {"steps": 30, "evaluate_every": 15, "lr": 2e-2, "query_blocks": 3, **own},
        }
    )
    train, test = ([Piece(spiky(seed), None, 32) for seed in seeds] for seeds in (range(4), range(10, 12)))
    state, facts = fitting.fit_layer(values, 2, 32, train, test)
    assert facts["fitted"] < 0.8 * facts["identity"], facts
    assert all(new <= old for new, old in zip(facts["fitted_by_head"], facts["identity_by_head"], strict=True))
    assert state["proj_q"].shape == (2, 32, 32) and state["alpha"].shape == (2, 2)


def test_stage_one_writes_a_pack_that_stage_two_begins_with(tiny, tmp_path):
    values = training_model.changed(tiny, tmp_path)
    first = training.fit(values)
    layers = sorted((tmp_path / "fit").iterdir())
    layers[0].unlink()  # as if it had been stopped there
    assert training.fit(values)["by_layer"] == first["by_layer"]
    pack = RouterPack.load(first["pack"])
    model = models.load(values["model"]["path"])
    assert pack.stage == 1 and (pack.base_shapes, pack.base_weights) == packs.fingerprints(model.state_dict())
    assert pack.errors["fitted"] <= pack.errors["identity"]
    values["attention"]["pack"] = first["pack"]
    arms.install(model, config.make(values), (3, 8, 8))
    for i, module in arms.modules(model).items():
        for name, value in module.state_dict().items():
            assert torch.equal(value, torch.from_numpy(pack.tensors[f"blocks.{i}.self_attn.sla2.{name}"]))
    start = training.train(training_model.changed(values, tmp_path / "two", train={"steps": 0}))
    assert start["attention_error"] < 1 and start["step"] == 0


# ---- export -----------------------------------------------------------------------------------------------------------------------


def full_attention_velocity(model: torch.nn.Module) -> torch.Tensor:
    random = torch.Generator().manual_seed(1)
    x, context = torch.randn(1, *training_model.SHAPE, generator=random), torch.randn(1, 6, 16, generator=random)
    with torch.no_grad():
        return models.velocity(model, x, torch.tensor([0.7]), context)


def test_a_lora_works_in_diffusers_under_both_namings(tiny, tmp_path):
    values = training_model.changed(
        tiny, tmp_path, train={"steps": 3, "what": "lora", "lr": 1e-2}, lora={"rank": 4, "alpha": 8.0},
        export={"naming": ["original", "comfyui", "diffusers"], "licence": "test"},
    )  # fmt: skip
    training.train(values)
    files = {entry["naming"]: entry for entry in training.export(values)["files"]}
    base = models.load(values["model"]["path"])
    student, _, _ = exporting.load_student(config.make(values), base)
    truth_model = models.load(values["model"]["path"])
    truth_model.load_state_dict(exporting.merged(student))
    truth, untouched = full_attention_velocity(truth_model), full_attention_velocity(base)
    assert (truth - untouched).abs().max() > 1e-3
    for naming in ("diffusers", "comfyui"):
        tensors = load_file(files[naming]["weights"])
        if naming == "comfyui":
            tensors = _convert_non_diffusers_wan_lora_to_diffusers(tensors)
        model = WanTransformer3DModel.from_pretrained(values["model"]["path"])
        model.load_lora_adapter(tensors, prefix="transformer")
        assert (full_attention_velocity(model) - truth).abs().max() < 1e-5
    for entry in files.values():
        pack = RouterPack.load(entry["pack"])
        assert pack.stage == 2 and pack.requires == hashlib.sha256(Path(entry["weights"]).read_bytes()).hexdigest()
        assert set(pack.tensors) == {f"blocks.{i}.self_attn.sla2.{name}" for i in (0, 1) for name in ("alpha", "proj_q", "proj_k")}


def test_the_difference_and_whole_weights(tiny, plain, tmp_path):
    values = training_model.changed(tiny, plain[0], train={"steps": 5})
    base = models.load(values["model"]["path"])
    student, step, _ = exporting.load_student(config.make(values), base)
    wanted = exporting.merged(student)
    assert step == 5
    entry = training.export({**values, "export": {"naming": ["comfyui"]}})["files"][0]
    tensors, found = load_file(entry["weights"]), {}
    from sla2.training import names

    for name, value in base.state_dict().items():
        stem = names.named(name, "comfyui")
        key = stem.removesuffix(".bias") + ".diff_b" if stem.endswith(".bias") else stem.removesuffix(".weight") + ".diff"
        found[name] = value + tensors.pop(key) if key in tensors else value
    assert not tensors and all(torch.allclose(found[name], value, atol=1e-7) for name, value in wanted.items())
    for naming in ("original", "diffusers"):
        entry = training.export({**values, "export": {"naming": [naming], "what": "whole"}})["files"][0]
        whole = models.load(entry["weights"]).state_dict()
        assert all(torch.equal(whole[name], value) for name, value in wanted.items())
        assert RouterPack.load(entry["pack"]).base_weights == packs.fingerprints(entry["weights"])[1]


# ---- which layers stand a cheaper attention ---------------------------------------------------------------------------------------


def test_the_knapsack_is_the_best_of_all_assignments():
    import itertools

    random = torch.Generator().manual_seed(0)
    errors = {mode: torch.rand(5, generator=random) for mode in ("sla2@0.9", "linear_only")}
    times = {"full": 1.0, "sla2@0.9": 0.3, "linear_only": 0.1}
    for budget in (0.6, 1.7, 3.0, 5.0):
        fits = [way for way in itertools.product(times, repeat=5) if sum(times[mode] for mode in way) <= budget]
        value = lambda way: sum(0 if mode == "full" else float(errors[mode][i]) for i, mode in enumerate(way))  # noqa: E731
        chosen = scheduling.knapsack(errors, times, budget)
        assert sum(times[mode] for mode in chosen) <= budget + 1e-6
        assert value(chosen) <= min(map(value, fits)) + 1e-6
    with pytest.raises(ValueError, match="no assignment fits"):
        scheduling.knapsack(errors, times, 0.4)


def test_halos_score_keeps_what_recall_needs():
    errors = torch.tensor([[0.1, 0.1], [0.9, 0.1], [0.2, 0.6]])  # layers x levels (high, low noise)
    times = {"full": 1.0, "linear_only": 0.0}
    assert scheduling.halo(errors, [0.9, 0.2], "linear_only", times, 1.0) == ["linear_only", "full", "linear_only"]
    assert scheduling.as_text(["linear_only", "full", "linear_only"]) == "linear_only; layers 1: full"


def test_a_schedule_is_measured_and_can_be_trained_with(tiny, tmp_path):
    values = training_model.changed(
        tiny, tmp_path, schedule={"modes": ["linear_only"], "budget": 1.0, "repeats": 1}, evaluate={"samples": 1}
    )
    found = training.calibrate_schedule(values)
    assert len(found["layers"]) == 2 and all(x > 0 for x in found["velocity_error"]["linear_only"])
    assert arms.layer_modes(config.make({"attention": {"schedule": found["schedule"]}}), 2)


def test_sample_clips_lie_beside_full_attention(tiny, tmp_path):
    values = training_model.changed(
        tiny, tmp_path, train={"steps": 1, "batch": 1}, sample={"every": 1, "count": 1, "steps": 2, "cfg_scale": 2.0}
    )
    training.train(values)
    pair = load_file(tmp_path / "samples" / "step_00000001.safetensors")
    assert pair["student"].shape == pair["full"].shape == (1, *training_model.SHAPE)
    assert 0 < (pair["student"] - pair["full"]).norm() < pair["full"].norm()


def test_sample_clips_become_pictures(tiny, tmp_path):
    torch.manual_seed(0)
    vae = AutoencoderKLWan(
        base_dim=8, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.0, 2.0, 0.5, 1.5]
    )
    vae.save_pretrained(tmp_path / "vae")
    own = {"every": 1, "count": 1, "steps": 1, "vae": str(tmp_path / "vae"), "fps": 5}
    training.train(training_model.changed(tiny, tmp_path, train={"steps": 1, "batch": 1}, evaluate={"samples": 1}, sample=own))
    folder = tmp_path / "samples"
    assert [path.name for path in folder.glob("*.gif")] == ["step_00000001_0.gif"]
    pair = load_file(folder / "step_00000001.safetensors")
    mean, std = (torch.tensor(x).view(1, 4, 1, 1, 1) for x in (vae.config.latents_mean, vae.config.latents_std))
    with torch.no_grad():  # diffusers' own way from latents to a clip
        clips = [vae.eval().decode(pair[name] * std + mean).sample[0] for name in ("student", "full")]
    frames = (torch.cat(clips, -1).clamp(-1, 1) / 2 + 0.5).permute(1, 2, 3, 0)  # beside each other
    with Image.open(folder / "step_00000001_0.gif") as picture:
        assert (picture.n_frames, picture.size, picture.info["duration"]) == (9, (256, 128), 200)
        for i, frame in enumerate(frames):
            picture.seek(i)
            shown = torch.frombuffer(bytearray(picture.convert("RGB").tobytes()), dtype=torch.uint8).view(128, 256, 3) / 255
            assert (shown - frame).abs().mean() < 0.02  # a picture has 256 colours


def test_files_get_the_permissions_of_any_new_file(plain, tiny, tmp_path):
    values = training_model.changed(tiny, plain[0], train={"steps": 5})
    before = os.umask(0o027)
    try:
        data.write_shard(tmp_path / "new" / "train_0000.safetensors", torch.zeros(1, 4, 3, 16, 16), torch.zeros(1, 6, 16))
        entry = training.export(values)["files"][0]
    finally:
        os.umask(before)
    for path in (tmp_path / "new" / "train_0000.safetensors", entry["weights"], entry["pack"]):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o640, path
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(FileWriteError, match="folder.safetensors: cannot be written: .*; free some space"):
        files.save(tmp_path / "folder.safetensors", {"a": torch.zeros(1)}, remedy="free some space")
    assert not list(tmp_path.rglob(".*.part"))
