# SPDX-License-Identifier: Apache-2.0
"""The runner with router packs, against diffusers' WanTransformer3DModel in which self-attention is replaced by the formulas of
docs/numerics.md, written here in torch fp64 with every score materialised. Models and everything in the packs are random."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
import sla2_ctypes as s
import torch
from make_pack import random_tensors, write_pack
from make_tiny_model import make_tiny_model

SIZE = {"width": 64, "height": 96, "frames": 9}
GRID = (3, 6, 4)  # tokens, in ragged blocks
KAPPA = "0.4"  # two of five blocks
BLOCK_Q, BLOCK_K = 32, 16
SEED = 11


# ---- the formula ------------------------------------------------------------------------------------------------------------------


def means(x, block):
    return torch.stack([part.mean(dim=-2) for part in x.split(block, dim=-2)], dim=-2)


def formula(q, k, v, learned, pack, sparsity):
    """[H,N,D] fp64 of one layer. `learned`: {short name: tensor} of the layer; `pack`: metadata."""
    heads, tokens, dim = q.shape
    scale = dim**-0.5
    mode = pack.get("mode", "sla2")
    centred = k - k.mean(dim=-2, keepdim=True)
    rows, cols = torch.arange(tokens) // BLOCK_Q, torch.arange(tokens) // BLOCK_K
    t_n = int(cols[-1]) + 1
    kept = max(1, math.floor((1 - sparsity) * t_n + 0.5))

    def router(which):
        if which + ".up" in learned:
            return torch.eye(dim).double() + learned[which + ".up"].double() @ learned[which + ".down"].double()
        return learned[which].double() if which in learned else torch.eye(dim).double()[None]

    scores = (means(q, BLOCK_Q) @ router("proj_q")) @ (means(centred, BLOCK_K) @ router("proj_k")).transpose(-1, -2) * scale
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    chosen.scatter_(-1, scores.sort(dim=-1, descending=True, stable=True).indices[..., :kept], True)
    mask = chosen[:, rows][..., cols]
    all_logits = q @ centred.transpose(-1, -2) * scale
    logits = all_logits.masked_fill(~mask, -math.inf)
    if mode == "pooled":
        counts = torch.bincount(cols).double()
        mean_logits = (q @ means(centred, BLOCK_K).transpose(-1, -2) * scale + counts.log()).masked_fill(chosen[:, rows], -math.inf)
        weights = torch.softmax(torch.cat([logits, mean_logits], dim=-1), dim=-1)
        return weights @ torch.cat([v, means(v, BLOCK_K)], dim=-2)
    sparse = torch.softmax(logits, dim=-1) @ v
    if mode == "sparse_only":
        return sparse
    feature_k = centred if pack.get("smooth_k", "1") == "1" else k
    feature = torch.softmax(q, dim=-1) @ torch.softmax(feature_k, dim=-1).transpose(-1, -2)
    everything = mode in ("linear_only", "l_plus_s") or (mode == "sla1" and pack.get("linear_scope") == "global")
    seen = feature if everything else feature.masked_fill(mask, 0)
    linear = seen @ v / torch.maximum(seen.sum(-1, keepdim=True), 1e-6 * feature.sum(-1, keepdim=True))
    if mode == "linear_only":
        return linear
    if mode == "l_plus_s":
        return sparse + linear
    if mode == "sla1":
        if "proj_l.weight" not in learned:
            return sparse
        return sparse + linear @ learned["proj_l.weight"].double().T + learned["proj_l.bias"].double()
    kappas = [float(x) for x in pack.get("kappa", KAPPA).split(",")]
    near = min(kappas, key=lambda kappa: abs(kappa - (1 - sparsity)))
    alpha = learned.get("alpha" if len(kappas) == 1 else f"alpha.k{round(near * 1e4):04d}")
    alpha_mode = pack.get("alpha_mode", "head_affine_lse")
    if alpha_mode == "const":
        logit = torch.full((heads, tokens), 0.5, dtype=torch.float64)
    elif alpha is None or alpha_mode == "head_affine_lse":
        pairs = torch.tensor([0.6, 0.5]).repeat(heads, 1).double() if alpha is None else alpha.double()
        counts = torch.bincount(cols).double()
        plain = means(q, BLOCK_Q) @ means(centred, BLOCK_K).transpose(-1, -2) * scale  # what the softmax would say, whatever was learned
        rest = torch.logsumexp((plain + counts.log()).masked_fill(chosen, -math.inf), dim=-1)
        logit = pairs[:, :1] * (torch.logsumexp(logits, dim=-1) - rest[:, rows]) + pairs[:, 1:]
    else:
        logit = alpha.double()[:, None].expand(heads, tokens) if alpha_mode == "head_scalar" else alpha.double()[:, rows]
    a = torch.sigmoid(logit)[..., None]
    return a * sparse + (1 - a) * linear


def tile_order():
    """Tokens of GRID in boxes of 4 x 4 x 4, cut off at the borders."""
    index = np.arange(math.prod(GRID)).reshape(GRID)
    f, h, w = (range(0, n, 4) for n in GRID)
    return torch.from_numpy(np.concatenate([index[a : a + 4, b : b + 4, c : c + 4].ravel() for a in f for b in h for c in w]))


# ---- both sides -------------------------------------------------------------------------------------------------------------------


class Reference:
    """diffusers' transformer and text encoder of a model folder; self-attention by `formula` where a pack is set."""

    def __init__(self, folder, monkeypatch):
        import sentencepiece
        from diffusers import WanTransformer3DModel
        from diffusers.models.transformers import transformer_wan
        from safetensors import safe_open
        from safetensors.torch import load_file
        from transformers import UMT5Config, UMT5EncoderModel

        def config_of(name):
            with safe_open(folder / name, "pt") as file:
                return {k: v for k, v in json.loads(file.metadata()["config"]).items() if not k.startswith("_")}

        config = config_of("dit.safetensors")
        self.dit = WanTransformer3DModel(**{**config, "patch_size": tuple(config["patch_size"])}).eval()
        state = {k: v for k, v in load_file(folder / "dit.safetensors").items() if "proj_l" not in k}
        self.dit.load_state_dict(state)
        self.encoder = UMT5EncoderModel(UMT5Config(**config_of("text_encoder.safetensors"))).eval()
        self.encoder.load_state_dict(load_file(folder / "text_encoder.safetensors"), strict=False)
        self.encoder.encoder.embed_tokens.weight = self.encoder.shared.weight
        self.pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
        self.layer, self.pack, self.tensors, self.sparsity = None, None, {}, 0.0
        plain = transformer_wan.dispatch_attention_fn

        def dispatch(query, key, value, **more):
            if self.layer is None or self.pack is None:
                return plain(query, key, value, **more)
            return self.attend(query, key, value)

        monkeypatch.setattr(transformer_wan, "dispatch_attention_fn", dispatch)
        for i, block in enumerate(self.dit.blocks):
            block.attn1.register_forward_pre_hook(lambda *_, i=i: setattr(self, "layer", i))
            block.attn1.register_forward_hook(lambda *_: setattr(self, "layer", None))

    def attend(self, query, key, value):  # [1,N,H,D] each
        order = tile_order() if self.pack.get("token_order") == "tile:4x4x4" else torch.arange(query.shape[1])
        q, k, v = (x[0, order].transpose(0, 1).double() for x in (query, key, value))
        head = f"blocks.{self.layer}.self_attn.sla2."
        learned = {name[len(head) :]: tensor for name, tensor in self.tensors.items() if name.startswith(head)}
        out = torch.empty_like(q)
        out[:, order] = formula(q, k, v, learned, self.pack, self.sparsity)
        return out.transpose(0, 1)[None].to(query.dtype)

    def embed(self, text):
        ids = self.pieces.encode(text) + [1]
        with torch.no_grad():
            rows = self.encoder(input_ids=torch.tensor([ids])).last_hidden_state
        return torch.nn.functional.pad(rows, (0, 0, 0, 512 - len(ids)))

    def velocity(self, x, timestep, text):
        dtype = self.dit.dtype
        with torch.no_grad():
            return self.dit(x.to(dtype), torch.tensor([timestep]), self.embed(text).to(dtype), return_dict=False)[0].float()


def noise():
    shape = (1, 16, (SIZE["frames"] - 1) // 4 + 1, SIZE["height"] // 8, SIZE["width"] // 8)
    return torch.randn(shape, generator=torch.Generator().manual_seed(SEED))


def values(**more):
    return {
        "prompt": "a red ball rests by the sea at sunset",
        "negative_prompt": "a green tree",
        "sampler": "euler",
        "steps": 1,
        "cfg_scale": 1,
        "shift": 3,
        "seed": SEED,
        "precision": "fp32",
        "preview_every": 0,
        "threads": 1,
        **SIZE,
        **more,
    }


@pytest.fixture(scope="module")
def sla2():
    return s.Sla2()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("tiny"), seed=5)


@pytest.fixture(scope="module")
def model(sla2, folder):
    return sla2.open(folder)


@pytest.fixture()
def reference(folder, monkeypatch):
    return Reference(folder, monkeypatch)


def sampled(sla2, model, tmp_path, **settings):
    """A run that ends with its first frame: what is asked here is known by then."""
    done = s.run_job(sla2, model, values(latent_out=tmp_path / "latent.safetensors", **settings), frames_status=s.E_CANCELLED)
    assert done.status == s.E_CANCELLED and done.report["steps_done"] == values(**settings)["steps"], done.error
    return done


def run(sla2, model, tmp_path, **settings):
    """The latent and the report."""
    from safetensors.torch import load_file

    report = sampled(sla2, model, tmp_path, **settings).report
    return load_file(tmp_path / "latent.safetensors")["latent"][None], report


def velocity_error(reference, latent, report):
    """The one Euler step undone, relative to the reference's velocity at the same place."""
    sigmas = report["sigmas"]
    ours = (latent - noise()) / (sigmas[1] - sigmas[0])
    theirs = reference.velocity(noise(), report["timesteps"][0], values()["prompt"])
    return float((ours - theirs).norm() / theirs.norm())


CASES = {
    "affine, router per head": {},
    "one router for all heads, one layer only": {"router": "shared", "layers": [1]},
    "low rank, scalar": {"router": "low_rank", "alpha_mode": "head_scalar"},
    "per block": {"alpha_mode": "block", "blocks": 3, "grid": "3x6x4"},
    "constant": {"alpha_mode": "const"},
    "one layer of per-head numbers": {"alpha_mode": "head_scalar", "router": "none", "layers": [0]},
    "tiles": {"token_order": "tile:4x4x4"},
    "keys as they are": {"smooth_k": "0"},
    "sla1": {"mode": "sla1"},
    "sla1 global": {"mode": "sla1", "linear_scope": "global", "smooth_k": "0", "layers": [0]},
    "sparse_only": {"mode": "sparse_only"},
    "pooled": {"mode": "pooled", "router": "shared"},
    "l_plus_s": {"mode": "l_plus_s"},
    "linear_only": {"mode": "linear_only", "router": "none"},
}


@pytest.mark.parametrize("case", CASES)
def test_velocity_against_diffusers(sla2, model, folder, reference, tmp_path, case):
    options = dict(CASES[case])
    layers, router, blocks = options.pop("layers", [0, 1]), options.pop("router", "head"), options.pop("blocks", 0)
    made_of = {key: options[key] for key in ("mode", "alpha_mode") if key in options}
    tensors = random_tensors(layers, router=router, blocks=blocks, seed=3, **made_of)
    pack = write_pack(tmp_path / "a.sla2.safetensors", folder, tensors, **{"kappa": KAPPA, **options})
    latent, report = run(sla2, model, tmp_path, pack=pack)
    plain, _ = run(sla2, model, tmp_path)
    reference.pack, reference.tensors, reference.sparsity = options, tensors, 0.6
    error = velocity_error(reference, latent, report)
    print(f"{case}: relative error {error:.2e}; the pack moves the latent by {float((latent - plain).norm() / plain.norm()):.2e}")
    assert error < 1e-4
    assert float((latent - plain).norm() / plain.norm()) > 1e-3
    assert report["pack"]["learned_layers"] == len(layers if tensors else [])
    assert report["pack"]["warnings"] == []
    expected = 1.0 if options.get("mode") == "linear_only" else 0.6
    assert all(layer["achieved_sparsity"] == pytest.approx(expected) for layer in report["layers"])


@pytest.mark.parametrize(("sparsity", "near"), [(0.4, 0.6), (0.85, 0.2)])
def test_several_kappas(sla2, model, folder, reference, tmp_path, sparsity, near):
    tensors = random_tensors([0, 1], kappa="0.2,0.6", seed=4)
    pack = write_pack(tmp_path / "a.sla2.safetensors", folder, tensors, kappa="0.2,0.6")
    latent, report = run(sla2, model, tmp_path, pack=pack, sparsity=sparsity)
    reference.pack, reference.tensors, reference.sparsity = {"kappa": "0.2,0.6"}, tensors, sparsity
    assert velocity_error(reference, latent, report) < 1e-4
    assert report["pack"]["kappa_used"] == [{"sparsity": sparsity, "kappa": near}]
    told = [note for note in report["fallbacks"] if "kappa" in note]
    assert bool(told) == (near != 1 - sparsity) and report["pack"]["warnings"] == told


def test_latents_of_several_steps_and_guidance(sla2, model, folder, reference, tmp_path):
    """A short Euler loop from the same noise: fp32 to 1e-4, bf16 to twice the error of diffusers in bf16."""
    tensors = random_tensors([0, 1], seed=6)
    pack = write_pack(tmp_path / "a.sla2.safetensors", folder, tensors, kappa=KAPPA)
    reference.pack, reference.tensors, reference.sparsity = {}, tensors, 0.6
    settings = {"steps": 3, "cfg_scale": 3, "pack": pack}
    latent, report = run(sla2, model, tmp_path, **settings)
    narrow, _ = run(sla2, model, tmp_path, **{**settings, "precision": "bf16"})

    def sample():
        x = noise()
        for i, timestep in enumerate(report["timesteps"]):
            cond = reference.velocity(x, timestep, values()["prompt"])
            uncond = reference.velocity(x, timestep, values()["negative_prompt"])
            x = x + (report["sigmas"][i + 1] - report["sigmas"][i]) * (uncond + 3 * (cond - uncond))
        return x

    theirs = sample()
    reference.dit.to(torch.bfloat16)
    theirs_narrow = sample()
    error, narrow_error, plain = (float((x - theirs).norm() / theirs.norm()) for x in (latent, narrow, theirs_narrow))
    print(f"fp32 {error:.2e}; bf16 {narrow_error:.2e}, diffusers in bf16 {plain:.2e}")
    assert error < 1e-4
    assert narrow_error <= 2 * plain


def test_projections_of_sla_v1_among_the_weights(sla2, folder, monkeypatch, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    other = shutil.copytree(folder, tmp_path / "sla1")
    state = load_file(folder / "dit.safetensors")
    tensors = random_tensors([0, 1], mode="sla1", router="none", seed=8)
    for name, tensor in tensors.items():
        layer, part = name.split(".")[1], name.split("proj_l.")[1]
        state[f"blocks.{layer}.attn1.attn_op.local_attn.proj_l.{part}"] = tensor
    with safe_open(folder / "dit.safetensors", "pt") as file:
        save_file(state, other / "dit.safetensors", metadata=file.metadata())
    opened = sla2.open(other)
    latent, report = run(sla2, opened, tmp_path, attention="sla1", sparsity=0.6, block_q=BLOCK_Q, block_k=BLOCK_K)
    reference = Reference(other, monkeypatch)
    reference.pack, reference.tensors, reference.sparsity = {"mode": "sla1", "linear_scope": "global", "smooth_k": "0"}, tensors, 0.6
    assert velocity_error(reference, latent, report) < 1e-4
    assert report["pack"]["mode"] == "sla1" and "SLA v1" in report["pack"]["name"]
    full, report = run(sla2, opened, tmp_path)
    reference.pack = None
    assert velocity_error(reference, full, report) < 1e-4
    assert report["pack"] is None and any("attention = sla1" in note for note in report["fallbacks"])


def test_report_plan_and_free_settings(sla2, model, folder, tmp_path):
    tensors = random_tensors([0, 1], seed=3)
    pack = write_pack(tmp_path / "a.sla2.safetensors", folder, tensors, kappa=KAPPA, stage=1, schedule="layers 0: full", requires="ab" * 32)
    with_pack = sampled(sla2, model, tmp_path, pack=pack)
    without = sampled(sla2, model, tmp_path)
    told = with_pack.report["pack"]
    assert (told["name"], told["stage"], told["base"], told["errors"]) == (pack.name, 1, "tiny_random", {"relative_l1": 0.125})
    assert len(told["digest"]) == 64 and told["requires"] == "ab" * 32
    assert any("requires" in warning for warning in told["warnings"])
    assert [layer["sparse_forwards"] for layer in with_pack.report["layers"]] == [0, 1]
    settings = with_pack.report["settings"]
    assert (settings["attention"], settings["block_q"], settings["sparsity"]) == ("sla2", "32", 0.6)
    held = sum(tensor.numel() * 4 for tensor in tensors.values())
    grown = with_pack.report["memory"]["planned_sample_bytes"] - without.report["memory"]["planned_sample_bytes"]
    assert grown >= held and "learned for attention" in with_pack.plan
    own = sampled(sla2, model, tmp_path, pack=pack, attention_schedule="sla2@0.5; layers 1: full")
    assert [layer["achieved_sparsity"] for layer in own.report["layers"]] == pytest.approx([0.4, 0.0])
    few = sampled(sla2, model, tmp_path, pack=pack, min_tokens=73)
    assert all(layer["sparse_forwards"] == 0 for layer in few.report["layers"])
    assert any("min_tokens" in note for note in few.report["fallbacks"])


def stopped(sla2, model, path, **settings):
    done = s.run_job(
        sla2, model, values(steps=5, checkpoint=path, **settings), on_step=lambda step, cancel, _: cancel() if step == 2 else None
    )
    assert done.status == s.E_CANCELLED
    return path


def test_resume_with_a_pack(sla2, model, folder, tmp_path):
    pack = write_pack(tmp_path / "a.sla2.safetensors", folder, random_tensors([0, 1], seed=3), kappa=KAPPA, schedule="steps 0: full")
    whole = s.run_job(sla2, model, values(steps=5, pack=pack))
    path = stopped(sla2, model, tmp_path / "ckpt", pack=pack)
    assert np.array_equal(s.run_job(sla2, model, {}, resume=path).frames, whole.frames)

    path = stopped(sla2, model, tmp_path / "ckpt", pack=pack)
    moved = pack.rename(tmp_path / "moved.safetensors")
    with pytest.raises(s.Failure, match="router pack .*a.sla2.safetensors.*--pack"):
        s.run_job(sla2, model, {}, resume=path)
    assert np.array_equal(s.run_job(sla2, model, {"pack": moved}, resume=path).frames, whole.frames)

    path = stopped(sla2, model, tmp_path / "ckpt", pack=moved)
    write_pack(moved, folder, random_tensors([0, 1], seed=9), kappa=KAPPA, schedule="steps 0: full")
    with pytest.raises(s.Failure, match="it was changed"):
        s.run_job(sla2, model, {}, resume=path)
    with pytest.raises(s.Failure, match="got none"):
        s.run_job(sla2, model, {"pack": ""}, resume=path)
    plain = stopped(sla2, model, tmp_path / "plain")
    with pytest.raises(s.Failure, match="without a router pack"):
        s.run_job(sla2, model, {"pack": moved}, resume=plain)
