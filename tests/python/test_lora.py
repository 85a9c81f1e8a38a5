# SPDX-License-Identifier: Apache-2.0
"""LoRA and difference files in the runner, against weights merged by diffusers' own loader (peft). Everything is random."""

from __future__ import annotations

import ctypes as C
import hashlib
import json
import shutil

import pytest
import sla2_ctypes as s
import torch
from make_pack import random_tensors, write_pack
from make_tiny_model import make_tiny_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sla2.training.names import original

RANK = 3
ALPHA = 5.0


@pytest.fixture(scope="module")
def sla2():
    return s.Sla2()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("tiny"), seed=6)


@pytest.fixture(scope="module")
def model(sla2, folder):
    return sla2.open(folder)


@pytest.fixture(scope="module")
def transformer(folder):
    from diffusers import WanTransformer3DModel

    with safe_open(folder / "dit.safetensors", "pt") as file:
        config = json.loads(file.metadata()["config"])
    config = {key: value for key, value in config.items() if not key.startswith("_")}
    dit = WanTransformer3DModel(**config)
    dit.load_state_dict(load_file(folder / "dit.safetensors"))
    return dit


@pytest.fixture(scope="module")
def factors(transformer):
    """{module of diffusers: (A [r, in], B [out, r])} of every Linear."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: (torch.randn(RANK, module.in_features, generator=generator) / module.in_features**0.5,
               torch.randn(module.out_features, RANK, generator=generator) * 0.3)
        for name, module in transformer.named_modules() if isinstance(module, torch.nn.Linear)
    }  # fmt: skip


@pytest.fixture(scope="module")
def merged(sla2, folder, transformer, factors, tmp_path_factory):
    """A function (strength) → an opened model with the LoRA merged by diffusers."""
    made = {}

    def get(strength):
        if strength not in made:
            path = shutil.copytree(folder, tmp_path_factory.mktemp("merged") / "model")
            state = {f"{name}.lora_A.weight": a for name, (a, b) in factors.items()}
            state |= {f"{name}.lora_B.weight": b for name, (a, b) in factors.items()}
            copy = type(transformer)(**dict(transformer.config))
            copy.load_state_dict(transformer.state_dict())
            copy.load_lora_adapter(state, prefix=None)
            copy.fuse_lora(lora_scale=strength)
            copy.unload_lora()
            with safe_open(folder / "dit.safetensors", "pt") as file:
                save_file({k: v.contiguous() for k, v in copy.state_dict().items()}, path / "dit.safetensors", metadata=file.metadata())
            made[strength] = sla2.open(path)
        return made[strength]

    return get


def values(**more):
    return {
        "prompt": "a red ball rests by the sea at sunset", "sampler": "euler", "steps": 2, "cfg_scale": 1, "shift": 3, "seed": 3,
        "width": 64, "height": 64, "frames": 5, "precision": "fp32", "preview_every": 0, "threads": 1, **more,
    }  # fmt: skip


def latent(sla2, model, tmp_path, **more):
    path = tmp_path / "latent.safetensors"
    done = s.run_job(sla2, model, values(latent_out=path, **more), frames_status=s.E_CANCELLED)
    assert done.status == s.E_CANCELLED and done.report["steps_done"] == 2, done.error
    return load_file(path)["latent"], done.report


def refused(sla2, model, status, *texts, **more):
    """The error of a job that must not start; every text is in it."""
    with pytest.raises(s.Failure) as caught:
        s.run_job(sla2, model, values(**more))
    assert caught.value.status == status, caught.value
    for text in texts:
        assert text in str(caught.value), caught.value
    return str(caught.value)


def error(ours, theirs):
    return float((ours - theirs).norm() / theirs.norm())


def diffusers_naming(factors):
    return {f"transformer.{name}.lora_{letter}.weight": pair[i] for name, pair in factors.items() for i, letter in enumerate("AB")}


def comfy_naming(factors):
    """lora_down, lora_up and alpha: the factors are divided by α/r so that the product stays what it is."""
    found = {}
    for name, (a, b) in factors.items():
        stem = f"diffusion_model.{original(name)}"
        found |= {f"{stem}.lora_down.weight": a, f"{stem}.lora_up.weight": b * RANK / ALPHA, f"{stem}.alpha": torch.tensor(ALPHA)}
    return found


def kohya_naming(factors):
    found = {}
    for name, (a, b) in factors.items():
        stem = "lora_unet_" + original(name).replace(".", "_")
        found |= {f"{stem}.lora_down.weight": a, f"{stem}.lora_up.weight": b * RANK / ALPHA, f"{stem}.alpha": torch.tensor(ALPHA)}
    return found


def original_naming(factors):
    return {f"{original(name)}.lora_{letter}.default.weight": pair[i] for name, pair in factors.items() for i, letter in enumerate("AB")}


@pytest.mark.parametrize("naming", [diffusers_naming, comfy_naming, kohya_naming, original_naming])
def test_merged_as_diffusers_merges(sla2, model, factors, merged, tmp_path, naming):
    path = tmp_path / "a.safetensors"
    save_file(naming(factors), path)
    ours, report = latent(sla2, model, tmp_path, lora=f"{path}@0.7")
    theirs, _ = latent(sla2, merged(0.7), tmp_path)
    plain, _ = latent(sla2, model, tmp_path)
    print(f"{error(ours, theirs):.1e}; the LoRA moves the latent by {error(plain, theirs):.1e}")
    assert error(ours, theirs) < 1e-5
    assert error(plain, theirs) > 0.01
    (told,) = report["lora"]
    assert (told["rank"], told["strength"], told["tensors_unused"]) == (RANK, 0.7, 0)
    assert told["tensors_changed"] == len(factors)
    assert told["digest"] == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("held", [{"precision": "bf16"}, {"linear_bits": 8}])
def test_other_forms_of_the_weights(sla2, model, factors, merged, tmp_path, held):
    path = tmp_path / "a.safetensors"
    save_file({key: value.half() for key, value in diffusers_naming(factors).items()}, path)
    ours, _ = latent(sla2, model, tmp_path, lora=path, **held)
    theirs, _ = latent(sla2, merged(1.0), tmp_path, **held)
    exact, _ = latent(sla2, merged(1.0), tmp_path)
    assert error(ours, theirs) < error(theirs, exact)  # within what the form itself costs: half factors move a few roundings


def test_several_files_and_differences(sla2, model, folder, factors, merged, tmp_path):
    """Norms, biases and modulation too; two files at once."""
    generator = torch.Generator().manual_seed(2)
    base = load_file(folder / "dit.safetensors")
    changed = {
        name: 0.1 * torch.randn(base[name].shape, generator=generator) for name in base if base[name].ndim == 1 or "scale_shift" in name
    }

    def key(name):
        name = "diffusion_model." + original(name)
        return name.removesuffix(".bias") + ".diff_b" if name.endswith(".bias") else name.removesuffix(".weight") + ".diff"

    diff, lora = tmp_path / "diff.safetensors", tmp_path / "lora.safetensors"
    save_file({key(name): value for name, value in changed.items()}, diff)
    save_file(comfy_naming(factors), lora)
    ours, report = latent(sla2, model, tmp_path, lora=f"{diff}@0.5; {lora}")
    other = shutil.copytree(folder, tmp_path / "model")
    state = {name: value + 0.5 * changed.get(name, 0) for name, value in base.items()}
    for name, (a, b) in factors.items():
        state[f"{name}.weight"] = state[f"{name}.weight"] + b @ a
    with safe_open(folder / "dit.safetensors", "pt") as file:
        save_file({k: v.contiguous() for k, v in state.items()}, other / "dit.safetensors", metadata=file.metadata())
    theirs, _ = latent(sla2, sla2.open(other), tmp_path)
    assert error(ours, theirs) < 1e-5
    assert [told["tensors_changed"] for told in report["lora"]] == [len(changed), len(factors)]


def test_what_does_not_fit(sla2, model, factors, tmp_path):
    good = comfy_naming(factors)
    stem = "diffusion_model.blocks.0.self_attn.q"

    def write(**changes):
        path = tmp_path / "x.safetensors"
        save_file({k: v.contiguous() for k, v in (good | changes).items() if v is not None}, path)
        return str(path)

    def without(name):
        path = tmp_path / "x.safetensors"
        save_file({k: v for k, v in good.items() if k != name}, path)
        return str(path)

    text = refused(
        sla2,
        model,
        s.E_MODEL_MISMATCH,
        "expected factors [64, r] and [r, 64]",
        lora=write(**{f"{stem}.lora_down.weight": torch.zeros(RANK, 40)}),
    )
    assert "made for another size" in text
    refused(sla2, model, s.E_FILE_FORMAT, "one of the two LoRA factors", lora=without(f"{stem}.lora_up.weight"))
    bad = good[f"{stem}.lora_up.weight"].clone()
    bad[0, 0] = float("nan")
    nan = write(**{f"{stem}.lora_up.weight": bad})
    done = s.run_job(sla2, model, values(lora=nan))
    assert done.status == s.E_FILE_FORMAT and "NaN or infinity" in done.error
    refused(sla2, model, s.E_UNSUPPORTED, "DoRA", lora=write(**{f"{stem}.dora_scale": torch.ones(64, 1)}))
    save_file({"lora_te_x.lora_down.weight": torch.ones(2, 2), "lora_te_x.lora_up.weight": torch.ones(2, 2)}, tmp_path / "te.safetensors")
    refused(sla2, model, s.E_MODEL_MISMATCH, "none of its 2 tensors", lora=tmp_path / "te.safetensors")
    refused(sla2, model, s.E_FILE_NOT_FOUND, "nowhere.safetensors", lora=tmp_path / "nowhere.safetensors")
    refused(sla2, model, s.E_ARGUMENT, "FILE@0.8", lora="@0.5")
    extra = write(**{"diffusion_model.blocks.0.cross_attn.k_img.lora_down.weight": torch.ones(2, 64)})
    _, report = latent(sla2, model, tmp_path, lora=extra)
    assert report["lora"][0]["tensors_unused"] == 1 and any("k_img" in note for note in report["fallbacks"])


def test_resume_keeps_the_lora(sla2, model, factors, tmp_path):
    path, moved, ckpt = tmp_path / "a.safetensors", tmp_path / "b.safetensors", tmp_path / "job.sla2ckpt"
    save_file(comfy_naming(factors), path)
    whole, _ = latent(sla2, model, tmp_path, lora=path)
    first = s.run_job(sla2, model, values(lora=path, checkpoint=ckpt, checkpoint_every=1), frames_status=s.E_CANCELLED)
    assert first.report["steps_done"] == 2
    path.rename(moved)
    with pytest.raises(s.Failure) as caught:
        s.run_job(sla2, model, {"checkpoint": ckpt}, resume=ckpt)
    assert caught.value.status == s.E_FILE_NOT_FOUND
    for other in (f"{moved}@0.5", ""):
        with pytest.raises(s.Failure, match="other LoRAs"):
            s.run_job(sla2, model, {"lora": other}, resume=ckpt)
    out = tmp_path / "again.safetensors"
    again = s.run_job(sla2, model, {"lora": moved, "latent_out": out}, resume=ckpt, frames_status=s.E_CANCELLED)
    assert again.report["lora"][0]["name"] == "b.safetensors", again.error
    assert torch.equal(load_file(out)["latent"], whole)


def test_a_pack_finds_the_lora_it_requires(sla2, model, folder, factors, tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(comfy_naming(factors), path)
    needs = hashlib.sha256(path.read_bytes()).hexdigest()
    pack = write_pack(tmp_path / "a.sla2.safetensors", folder, random_tensors([0, 1], seed=3), kappa="0.4", stage=2, requires=needs)
    _, report = latent(sla2, model, tmp_path, pack=pack, lora=path)
    assert report["pack"]["warnings"] == []
    _, report = latent(sla2, model, tmp_path, pack=pack)
    assert any("requires the LoRA" in warning for warning in report["pack"]["warnings"])


def file_info(sla2, path):
    def call(buffer, capacity):
        needed = C.c_uint64()
        sla2.check(sla2.c.sla2_file_info(str(path).encode(), buffer, capacity, C.byref(needed)))
        return needed.value

    return json.loads(sla2.text(call))


def test_info(sla2, factors, tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(kohya_naming(factors), path)
    info = file_info(sla2, path)
    assert info["kind"] == "lora" and info["sizes"] == {"pairs": len(factors), "rank": RANK}
    save_file({"diffusion_model.blocks.0.self_attn.q.diff_b": torch.ones(64)}, path)
    info = file_info(sla2, path)
    assert info["sizes"] == {"pairs": 0, "rank": 0, "differences": 1} and "--lora" in info["fits"]
