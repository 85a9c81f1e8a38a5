# SPDX-License-Identifier: Apache-2.0
"""The node on core's own models and samplers, in this process: every variant of Wan that a tiny random model can be."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import comfy_process  # first: it tells ComfyUI that there is no GPU

# isort: split
import comfy.context_windows
import comfy.model_management
import comfy.model_patcher
import comfy.sample
import pytest
import sla2
import tiny_wan
import torch
from reference import sla2 as reference

from comfy_nodes.nodes import patching
from comfy_nodes.sla2_nodes import chain

torch.set_num_threads(1)
NODES = comfy_process.nodes()
HOOK = chain.HOOK
STEPS = 2
WORDS: dict[str, Any] = dict(
    preset="custom", keep_percent=25.0, bits="16", mode="auto", start_percent=0.0, end_percent=1.0, dense_first_steps=0,
    dense_last_steps=0, dense_blocks="", min_tokens=0, token_order="auto", probe_percent=0.0, verbose=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def models() -> Any:
    made: dict[str, Any] = {}

    def get(kind: str = "t2v") -> Any:
        if kind not in made:
            made[kind] = tiny_wan.load(kind)
        return made[kind]

    return get


def sparse(model: Any, **words: Any) -> Any:
    return NODES["SLA2Attention"].execute(model, **WORDS | words).result[0]


def total(model: Any) -> dict[str, Any]:
    return patching.active_of(model).report.to_dict()["total"]


def layers(model: Any) -> dict[str, Any]:
    return {row["layer"]: row for row in patching.active_of(model).report.to_dict()["layers"]}


def condition(seed: int, batch: int = 1, text: int = 512, **words: Any) -> Any:
    return [[torch.randn(batch, text, 4096, generator=torch.Generator().manual_seed(seed)), words]]


def sample(
    model: Any,
    *,
    shape: tuple[int, ...] = (1, 16, 3, 16, 16),
    cfg: float = 3.0,
    steps: int = STEPS,
    positive: Any = None,
    negative: Any = None,
    **words: Any,
) -> Any:
    latent = torch.zeros(shape)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    positive, negative = positive or condition(1), negative or condition(2)
    return comfy.sample.sample(model, noise, steps, cfg, "euler", "simple", positive, negative, latent, disable_pbar=True, seed=3, **words)


def truth(model: Any, taken: Any = None) -> Any:
    """The same model with fp64 SLA2 on the hook, for calls that `taken` names (by default those of equal shapes)."""

    def override(func: Any, q: Any, k: Any, v: Any, heads: int, *args: Any, **kwargs: Any) -> Any:
        if not (q.shape == k.shape if taken is None else taken(q, k)):
            return func(q, k, v, heads, *args, **kwargs)
        return reference(*(t.unflatten(-1, (heads, -1)) for t in (q, k, v)), 0.75).float().flatten(2)

    clone = model.clone()
    clone.model_options["transformer_options"][HOOK] = override
    return clone


def close(ours: Any, expected: Any) -> None:
    assert (ours - expected).abs().max() < 2e-5 * expected.abs().max(), "fp32 rounding of the tests' own fp64 SLA2"


def test_split_cond_and_uncond_give_what_one_batch_gives(models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    together = sparse(models())
    first = sample(together)
    monkeypatch.setattr(
        comfy.model_management, "get_free_memory", lambda _=None, torch_free_too=False: (1 << 30, 0) if torch_free_too else 0
    )
    split = sparse(models())
    second = sample(split)
    assert total(split)["forwards"] == 2 * total(together)["forwards"] == 2 * STEPS
    assert total(split)["sparse"] == 2 * total(together)["sparse"] == 4 * STEPS
    close(second, first)


def test_guidance_of_one(models: Any) -> None:
    model = sparse(models())
    close(sample(model, cfg=1.0), sample(truth(models()), cfg=1.0))
    assert total(model)["forwards"] == STEPS and total(model)["sparse"] == 2 * STEPS


def test_a_batch_of_two_clips(models: Any) -> None:
    model = sparse(models())
    close(sample(model, shape=(2, 16, 3, 16, 16)), sample(truth(models()), shape=(2, 16, 3, 16, 16)))
    assert total(model)["sparse"] == 2 * total(model)["forwards"]


@pytest.mark.parametrize("image", [False, True])
def test_a_clip_with_as_many_tokens_as_the_text(models: Any, image: bool) -> None:
    """8 x 8 x 8 tokens beside 512 of text: the first of the equal calls in each block is self-attention."""
    words: dict[str, Any] = {}
    if image:
        clip = SimpleNamespace(penultimate_hidden_states=torch.randn(1, 257, 1280, generator=torch.Generator().manual_seed(5)))
        shape = (1, 16, 8, 16, 16)
        words = {"clip_vision_output": clip, "concat_latent_image": torch.randn(shape), "concat_mask": torch.ones(1, 1, *shape[2:])}
    model = sparse(models("i2v" if image else "t2v"))
    both = dict(positive=condition(1, **words), negative=condition(2, **words))
    ours = sample(model, shape=(1, 16, 8, 16, 16), **both)
    calls = {"n": 0}

    def taken(q: Any, k: Any) -> bool:
        calls["n"] += q.shape == k.shape
        return q.shape == k.shape and calls["n"] % 2 == 1

    close(ours, sample(truth(models("i2v" if image else "t2v"), taken), shape=(1, 16, 8, 16, 16), **both))
    assert total(model)["sparse"] == total(model)["forwards"] * 2
    assert total(model)["other_calls"] == total(model)["forwards"] * (4 if image else 2)


@pytest.mark.parametrize("order", ["raster", "tiles"])
def test_reference_latents_before_the_video(models: Any, order: str) -> None:
    """64 reference tokens: kept for every query, and never reordered."""
    reference_latent = torch.randn(1, 16, 1, 16, 16, generator=torch.Generator().manual_seed(6))
    both = dict(positive=condition(1, reference_latents=[reference_latent]), negative=condition(2, reference_latents=[reference_latent]))
    model, seen = sparse(models("ref"), token_order=order), []
    active, real = patching.active_of(model), sla2.attention

    def spy(*tensors: Any, **words: Any) -> Any:
        seen.append((tensors[0].shape[1], words.get("protect_first"), words.get("protect_last")))
        return real(*tensors, **words)

    active.sla2 = SimpleNamespace(attention=spy, token_order=sla2.token_order, clear_plans=sla2.clear_plans)
    sample(model, **both)
    assert set(seen) == {(192 + 64, 1, None)} and total(model)["sparse"] == len(seen)


def vace(seed: int = 7) -> dict[str, Any]:
    source = torch.Generator().manual_seed(seed)
    frames, mask = torch.randn(1, 32, 3, 16, 16, generator=source), torch.ones(1, 64, 3, 16, 16)
    return {"vace_frames": [frames], "vace_mask": [mask], "vace_strength": [1.0]}


def pack(**words: Any) -> Any:
    return sla2.RouterPack(layers=2, heads=2, head_dim=128, kappa=(0.25,), **words)


def packed(model: Any, tmp_pack: Any, **words: Any) -> Any:
    shapes = chain_shapes(model)
    return sparse(model, calibrated=dataclasses.replace(tmp_pack, base_shapes=shapes), **words)


def chain_shapes(model: Any) -> str:
    from sla2.packs import fingerprints

    return fingerprints(model.get_model_object("diffusion_model").state_dict())[0]


def test_vace(models: Any) -> None:
    both = dict(positive=condition(1, **vace()), negative=condition(2, **vace()))
    free = sparse(models("vace"))
    ours = sample(free, **both)
    close(ours, sample(truth(models("vace")), **both))
    assert layers(free)["0 VACE"]["sparse"] == total(free)["forwards"] and "1 VACE" not in layers(free)
    bound = packed(models("vace"), pack())
    sample(bound, **both)
    assert layers(bound)["0 VACE"]["sparse"] == 0 and layers(bound)["0"]["sparse"] == layers(bound)["1"]["sparse"] > 0


def test_a_pack_gives_each_layer_its_own_numbers(models: Any) -> None:
    """Layer 1 all sparse (a = 1), layer 0 all linear: equal to the default nowhere, and to exchanged numbers nowhere."""
    import numpy as np

    def numbers(first: float, second: float) -> Any:
        names = [f"blocks.{i}.self_attn.sla2.alpha" for i in (0, 1)]
        return pack(tensors={name: np.array([[0.0, b]] * 2, np.float32) for name, b in zip(names, (first, second))})

    one, other, default = packed(models(), numbers(-9, 9)), packed(models(), numbers(9, -9)), sparse(models())
    results = [sample(model) for model in (one, other, default)]
    assert total(one)["sparse"] > 0 and not torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])
    close(
        sample(packed(models(), numbers(0.5, 0.5), mode="auto", keep_percent=25.0, bits="16")), sample(packed(models(), numbers(0.5, 0.5)))
    )


def test_a_pack_keeps_layers_dense_by_its_schedule(models: Any) -> None:
    model = packed(models(), pack(schedule="layers 0: full; layers 1: pooled"))
    sample(model)
    assert layers(model)["0"]["reasons"] == {"the router pack's schedule": total(model)["forwards"]} and layers(model)["1"]["sparse"] > 0


def test_context_windows_change_the_number_of_tokens(models: Any) -> None:
    handler = comfy.context_windows.IndexListContextHandler(
        context_schedule=comfy.context_windows.get_matching_context_schedule("standard_static"),
        fuse_method=comfy.context_windows.get_matching_fuse_method("pyramid"),
        context_length=4, context_overlap=1, context_stride=1, closed_loop=False, dim=2,
    )  # fmt: skip
    windowed = {
        "plain": models().clone(),
        "ours": sparse(models(), token_order="tiles"),
        "truth": truth(models()),
        "raster": sparse(models()),
    }
    results = {}
    for name, model in windowed.items():
        model.model_options["context_handler"] = handler
        results[name] = sample(model, shape=(1, 16, 7, 16, 16), cfg=1.0)
    assert total(windowed["ours"])["forwards"] > STEPS and total(windowed["ours"])["dense"] == 0
    close(results["raster"], results["truth"])
    assert torch.isfinite(results["ours"]).all()


class Recorder:
    """Another pack's override that passes everything on, by a chain or over the head of who was there."""

    def __init__(self, model: Any, *, chains: bool = True) -> None:
        self.calls = 0
        options = model.model_options["transformer_options"]
        before = options.get(HOOK) if chains else None

        def override(func: Any, *args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return func(*args, **kwargs) if before is None else before(func, *args, **kwargs)

        options[HOOK] = override


def test_an_override_before_gets_what_is_declined(models: Any) -> None:
    model = models().clone()
    other = Recorder(model)
    ours = sparse(model, dense_blocks="0")
    sample(ours)
    assert other.calls == total(ours)["dense"] + total(ours)["other_calls"] and total(ours)["sparse"] > 0


def test_an_override_after_that_chains(models: Any) -> None:
    ours = sparse(models())
    other = Recorder(ours)
    sample(ours)
    assert other.calls == total(ours)["self_attention_calls"] + total(ours)["other_calls"] and total(ours)["dense"] == 0


def test_an_override_after_that_does_not_chain(models: Any) -> None:
    ours = sparse(models())
    other = Recorder(ours, chains=False)
    sample(ours)
    passes = total(ours)["forwards"]
    assert other.calls == 4 + 2 * (passes - 1) and total(ours)["sparse"] == 2 * (passes - 1)


def test_the_node_twice_is_the_last_one_once(models: Any) -> None:
    once, twice = sparse(models()), sparse(sparse(models(), keep_percent=60.0))
    assert torch.equal(sample(once), sample(twice)) and total(once) | {"sparse_seconds": 0} == total(twice) | {"sparse_seconds": 0}
    wrappers = twice.get_wrappers("diffusion_model", "sla2")
    assert len(wrappers) == 1


def test_off_and_beside(models: Any) -> None:
    """Two branches of one graph: the sparse one leaves the other's bits alone, before, between and after."""
    model = models()
    plain = sample(model)
    ours = sparse(model)
    first = sample(ours)
    assert torch.equal(sample(model), plain) and not torch.equal(first, plain)
    assert torch.equal(sample(sparse(model, keep_percent=100.0)), plain) and torch.equal(sample(model.clone()), plain)
    half = sparse(model, keep_percent=50.0)
    second = sample(half)
    assert torch.equal(sample(ours), first) and not torch.equal(second, first)
    assert total(half)["sparsity"] == pytest.approx(1 - 2 / 3, abs=0.01)
    assert HOOK not in model.model_options["transformer_options"]


def test_a_lora_on_the_model(models: Any) -> None:
    """Patched weights before or after the node: the same, and the truth's."""
    weight = models().model.diffusion_model.blocks[0].self_attn.q.weight
    down, up = torch.randn(4, weight.shape[1]) * 0.1, torch.randn(weight.shape[0], 4) * 0.1
    key = "diffusion_model.blocks.0.self_attn.q.weight"
    patches = {key: (up @ down,)}
    before = models().clone()
    before.add_patches(patches)
    ours = sparse(before)
    after = sparse(models())
    after.add_patches(patches)
    first = sample(ours)
    close(first, sample(after))
    close(first, sample(truth(before)))
    assert (first - sample(sparse(models()))).abs().max() > 1e-3


def test_interrupted_in_mid_step(models: Any) -> None:
    """State is freed, nothing of ours stays on the model, and the next run is whole."""
    whole = sparse(models())
    expected = sample(whole)
    model = models().clone()

    class Stop(Exception):
        pass

    def stop(func: Any, *args: Any, **kwargs: Any) -> Any:
        raise Stop

    model.model_options["transformer_options"][HOOK] = stop
    ours = sparse(model)
    with pytest.raises(Stop):
        sample(ours)
    blocks = models().model.diffusion_model.blocks
    assert not any(block._forward_pre_hooks for block in blocks)
    assert "sla2_forward" not in ours.model_options["transformer_options"]
    assert torch.equal(sample(whole), expected) and torch.equal(sample(sparse(models())), expected)


def test_steps_by_percent_and_number(models: Any) -> None:
    model = sparse(models(), start_percent=0.5, dense_last_steps=1)
    sample(model, steps=4, cfg=1.0)
    assert total(model)["reasons"] == {"before start_percent": 4, "dense_last_steps": 2} and total(model)["sparse"] == 2
    preset = NODES["SLA2Attention"].execute(models(), **WORDS | {"preset": "balanced"}).result[0]
    sample(preset, steps=4, cfg=1.0)
    assert total(preset)["sparse"] == 0, "two blocks, and both are the first or the last"


def test_a_model_that_is_not_wan(models: Any) -> None:
    """A router pack on it is refused; without one the node is harmless."""
    model = models().clone()
    model.add_object_patch("diffusion_model", torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="Linear"):
        sparse(model, calibrated=pack())
    assert sparse(model) is not None


def test_bf16(models: Any) -> None:
    model = models().clone()
    model.set_model_compute_dtype(torch.bfloat16)
    ours = sparse(model)
    assert torch.isfinite(sample(ours)).all() and total(ours)["dense"] == 0


@pytest.mark.parametrize("whole", [False, True])
def test_compiled(models: Any, whole: bool) -> None:
    """Blocks or the model under torch.compile (eager backend: the graph breaks are what is tested) give the same as plain ones."""
    plain = sample(sparse(models()), cfg=1.0)
    model = sparse(models())
    if whole:
        model.add_object_patch("diffusion_model", torch.compile(models().model.diffusion_model, backend="eager"))
    else:
        for number, block in enumerate(models().model.diffusion_model.blocks):
            model.add_object_patch(f"diffusion_model.blocks.{number}", torch.compile(block, backend="eager"))
    close(sample(model, cfg=1.0), plain)
    assert total(model)["dense"] == 0
