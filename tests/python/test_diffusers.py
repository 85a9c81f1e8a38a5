# SPDX-License-Identifier: Apache-2.0
"""sla2.diffusers on diffusers' own pipelines, small and with random parts: text to video, image to video, VACE, two transformers.

Truth for sparse attention is the formula written out with a dense mask, put where diffusers' processor calls its attention.
"""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from conftest import need_package

sla2 = need_package()
diffusers = pytest.importorskip("diffusers")
import sla2.diffusers as sd  # noqa: E402
from diffusers.models.transformers import transformer_wan  # noqa: E402
from diffusers.models.transformers.transformer_wan import WanAttnProcessor  # noqa: E402
from make_tiny_model import randomise, train_tokenizer  # noqa: E402
from test_bindings_torch import block_means, sla2_formula  # noqa: E402

BLOCKS = {"block_q": 32, "block_k": 16}
# diffusers' tests/pipelines/wan, with heads of 32 channels where theirs have 12 (the library takes 32 to 256) and a layer more.
TRANSFORMER = {
    "patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 32, "in_channels": 16, "out_channels": 16, "text_dim": 32,
    "freq_dim": 32, "ffn_dim": 32, "num_layers": 3, "cross_attn_norm": True, "qk_norm": "rms_norm_across_heads", "rope_max_seq_len": 32,
}  # fmt: skip
VAE = {"base_dim": 3, "z_dim": 16, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1, "temperal_downsample": [False, True, True]}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_transformer(kind=diffusers.WanTransformer3DModel, seed=0, **changes):
    model = kind(**{**TRANSFORMER, **changes}).eval()
    randomise(model, torch.Generator().manual_seed(seed), 1.0)
    return model


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Text encoder, tokenizer and VAE: a T5 and Wan's VAE, as small as they go, made here."""
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    spiece = tmp_path_factory.mktemp("tokenizer") / "spiece.model"
    spiece.write_bytes(train_tokenizer())
    torch.manual_seed(0)
    encoder = T5EncoderModel(T5Config(vocab_size=400, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4)).eval()
    return {
        "tokenizer": T5Tokenizer(vocab_file=str(spiece), extra_ids=0),
        "text_encoder": encoder,
        "vae": diffusers.AutoencoderKLWan(**VAE).eval(),
    }


def make_pipe(parts, transformer, kind=diffusers.WanPipeline, scheduler=None, **more):
    scheduler = scheduler or diffusers.FlowMatchEulerDiscreteScheduler(shift=7.0)
    pipe = kind(**parts, transformer=transformer, scheduler=scheduler, **more)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pipe(parts):
    return make_pipe(parts, make_transformer())


def sample(pipe, steps=2, **more):
    """Latents [1,16,3,12,12] of 3 x 6 x 6 = 108 tokens, with guidance: two calls of the transformer a step."""
    options = {"prompt": "a red ball rises", "negative_prompt": "", "num_inference_steps": steps, "guidance_scale": 5.0, "height": 96}
    options |= {"width": 96, "num_frames": 9, "max_sequence_length": 16, "output_type": "latent"} | more
    return pipe(generator=torch.Generator().manual_seed(1), **options).frames


def call(transformer, box=(3, 12, 12), rows=20, grad=False, timestep=500.0, **more):
    g = torch.Generator().manual_seed(2)
    latent, text = torch.randn(1, transformer.config.in_channels, *box, generator=g), torch.randn(1, rows, 32, generator=g)
    with torch.set_grad_enabled(grad):
        return transformer(latent, torch.tensor([timestep]), text, return_dict=False, **more)[0]


class Formula(WanAttnProcessor):
    """diffusers' own processor, whose softmax is swapped for a formula while it computes."""

    def __init__(self, compute):
        super().__init__()
        self.compute = compute

    def __call__(self, *args, **kwargs):
        usual = transformer_wan.dispatch_attention_fn

        def swapped(q, k, v, **_):
            return self.compute(*(x.transpose(1, 2).double() for x in (q, k, v))).transpose(1, 2).float()

        transformer_wan.dispatch_attention_fn = swapped
        try:
            return super().__call__(*args, **kwargs)
        finally:
            transformer_wan.dispatch_attention_fn = usual


def with_formula(blocks, compute, run):
    """run() while each of these blocks' self-attention computes compute(layer)(q, k, v)."""
    before = [block.attn1.processor for block in blocks]
    for i, block in enumerate(blocks):
        block.attn1.processor = Formula(compute(i))
    try:
        return run()
    finally:
        for block, processor in zip(blocks, before):
            block.attn1.processor = processor


def plain(sparsity):
    alpha, eye = torch.tensor([[0.6, 0.5]] * 2).double(), torch.eye(32).double()
    return lambda _layer: lambda q, k, v: sla2_formula(q, k, v, eye, eye, alpha, sparsity)


def relative(ours, theirs):
    return ((ours - theirs).norm() / theirs.norm()).item()


# ---- truth --------------------------------------------------------------------------------------------------------------------


def test_a_pipeline_computes_the_formula_and_then_its_own_bits_again(pipe):
    before, processors = sample(pipe), dict(pipe.transformer.attn_processors)
    expected = with_formula(pipe.transformer.blocks, plain(0.6), lambda: sample(pipe))
    sd.apply(pipe, sparsity=0.6, **BLOCKS)
    sparse = sample(pipe)
    sd.restore(pipe)
    assert relative(sparse, expected) < 2e-5 < 1e-3 < relative(sparse, before)
    assert torch.equal(sample(pipe), before)
    assert all(pipe.transformer.attn_processors[name] is processor for name, processor in processors.items())
    assert not pipe.transformer._forward_pre_hooks and "_sla2_applied" not in vars(pipe.transformer)


def test_gradients_are_the_formulas(pipe):
    model = pipe.transformer
    weights = [model.blocks[0].attn1.to_q.weight, model.blocks[2].attn1.to_v.weight]

    def gradients():
        loss = call(model, grad=True).square().sum()
        return torch.autograd.grad(loss, weights)

    expected = with_formula(model.blocks, plain(0.6), gradients)
    sd.apply(model, sparsity=0.6, **BLOCKS)
    ours = gradients()
    report = sd.report(model)
    sd.restore(model)
    assert max(relative(a, b) for a, b in zip(ours, expected)) < 1e-4
    assert [row.sparse for row in report.rows] == [1, 1, 1]


@pytest.mark.parametrize("off", [{"sparsity": 0}, {"mode": "off"}, {"schedule": "full"}, {"dense_layers_first": 3}])
def test_nothing_skipped_is_the_same_bits(pipe, off):
    before = call(pipe.transformer)
    sd.apply(pipe, **off)
    after, report = call(pipe.transformer), sd.report(pipe)
    sd.restore(pipe)
    assert torch.equal(after, before) and all((row.calls, row.full, row.sparse) == (1, 1, 0) for row in report.rows)


def test_other_modes_and_orders_and_bits(pipe):
    """Each against sla2.attention itself, called where the formula was: what is tested is that settings arrive."""
    for settings in (
        {"mode": "pooled"},
        {"mode": "linear_only"},
        {"mode": "l_plus_s"},
        {"bits": 8},
        {"token_order": "hilbert"},
        {"token_order": "tiles"},
    ):
        order = torch.from_numpy(sla2.token_order(settings.get("token_order", "raster"), (3, 6, 6))).long()
        options = {name: value for name, value in settings.items() if name != "token_order"}

        def compute(_layer, order=order, options=options):
            def one(q, k, v):
                out = sla2.attention(*(x[:, :, order].float().contiguous() for x in (q, k, v)), sparsity=0.6, **BLOCKS, **options)
                return out[:, :, order.argsort()].double()

            return one

        expected = with_formula(pipe.transformer.blocks, compute, lambda: call(pipe.transformer))
        sd.apply(pipe, sparsity=0.6, **BLOCKS, **settings)
        ours = call(pipe.transformer)
        sd.restore(pipe)
        assert relative(ours, expected) < 1e-6, settings


def make_pack(transformer, tmp_path, mode="sla2", **changes):
    g = np.random.default_rng(4)
    shapes, weights = sla2.packs.fingerprints(transformer.state_dict())
    tensors = {}
    for i in range(3):
        name = f"blocks.{i}.self_attn.sla2."
        if mode == "sla1":
            tensors |= {name + "proj_l.weight": 0.2 * g.standard_normal((32, 32)), name + "proj_l.bias": g.standard_normal(32)}
        else:
            tensors |= {name + f"proj_{part}": np.eye(32) + 0.1 * g.standard_normal((2, 32, 32)) for part in "qk"}
            tensors[name + "alpha"] = g.standard_normal((2, 2))
    values = {"kappa": (0.4,), "mode": mode, "base_shapes": shapes, "base_weights": weights, "tensors": tensors, **BLOCKS, **changes}
    pack = sla2.RouterPack(3, 2, 32, **values)
    pack.save(tmp_path / "p.sla2.safetensors")
    return pack, tmp_path / "p.sla2.safetensors"


def test_a_packs_numbers_are_used_in_their_layers(pipe, tmp_path):
    pack, path = make_pack(pipe.transformer, tmp_path)
    own = [{name: torch.from_numpy(x).double() for name, x in pack.layer(i).items()} for i in range(3)]

    def compute(i):
        return lambda q, k, v: sla2_formula(q, k, v, own[i]["router_q"], own[i]["router_k"], own[i]["mix_values"], 0.6)

    expected = with_formula(pipe.transformer.blocks, compute, lambda: call(pipe.transformer))
    sd.apply(pipe, pack=path)
    assert relative(call(pipe.transformer), expected) < 2e-5
    sd.apply(pipe, pack=pack, sparsity=0.7)  # a second apply replaces the first
    call(pipe.transformer)
    assert "mixing numbers of 0.6 are used" in sd.report(pipe).notes[0] and sd.report(pipe).rows[0].calls == 1
    sd.restore(pipe)


def test_sla1_weights_compute_sla1(pipe, tmp_path):
    pack, path = make_pack(pipe.transformer, tmp_path, "sla1", linear_scope="global", smooth_k=False, router="sla1")

    def compute(i):
        w, b = (torch.from_numpy(pack.layer(i)[name]).double() for name in ("proj", "proj_bias"))

        def one(q, k, v):
            smooth = k - k.mean(-2, keepdim=True)
            pooled = block_means(q, 32) @ block_means(smooth, 16).transpose(-1, -2)
            mask = torch.zeros_like(pooled).scatter(-1, pooled.topk(round(0.4 * pooled.shape[-1])).indices, 1.0)
            rows, columns = (torch.arange(q.shape[-2]) // size for size in (32, 16))
            weight = mask[..., rows, :][..., columns]
            o_s = (q @ smooth.transpose(-1, -2) / 32**0.5 + weight.log()).softmax(-1) @ v
            a = q.softmax(-1) @ k.softmax(-1).transpose(-1, -2)
            return o_s + (a @ v / a.sum(-1, keepdim=True)) @ w.T + b

        return one

    expected = with_formula(pipe.transformer.blocks, compute, lambda: call(pipe.transformer))
    sd.apply(pipe, pack=path)
    ours = call(pipe.transformer)
    sd.restore(pipe)
    assert relative(ours, expected) < 2e-5


def test_text_attention_is_never_touched_where_512_tokens_meet_512_rows(pipe):
    model = pipe.transformer
    expected = with_formula(model.blocks, plain(0.6), lambda: call(model, (2, 32, 32), 512))
    cross = [block.attn2.processor for block in model.blocks]
    sd.apply(model, sparsity=0.6, **BLOCKS)
    ours, report = call(model, (2, 32, 32), 512), sd.report(model)
    assert [block.attn2.processor for block in model.blocks] == cross
    sd.restore(model)
    assert relative(ours, expected) < 2e-5 and [row.name for row in report.rows] == [f"blocks.{i}.attn1" for i in range(3)]


def test_bf16_fused_projections_and_lora_scale_along(pipe):
    import copy

    model = copy.deepcopy(pipe.transformer).to(torch.bfloat16)
    usual = call_bf16(model)
    sd.apply(model, sparsity=0.6, **BLOCKS)
    sparse = call_bf16(model)
    sd.restore(model)
    model.fuse_qkv_projections()
    sd.apply(model, sparsity=0.6, **BLOCKS)
    assert relative(call_bf16(model).float(), sparse.float()) < 0.02 and relative(sparse.float(), usual.float()) < 1
    assert all(row.sparse == 1 for row in sd.report(model).rows)


def call_bf16(model):
    g = torch.Generator().manual_seed(2)
    latent, text = torch.randn(1, 16, 3, 12, 12, generator=g), torch.randn(1, 20, 32, generator=g)
    with torch.no_grad():
        return model(latent.bfloat16(), torch.tensor([500.0]), text.bfloat16(), return_dict=False)[0]


# ---- other pipelines ----------------------------------------------------------------------------------------------------------


def test_image_to_video_keeps_its_image_attention(parts):
    from PIL import Image
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=8, projection_dim=8, num_hidden_layers=2, num_attention_heads=2, image_size=32, intermediate_size=16, patch_size=8
    )
    image = {"image_encoder": CLIPVisionModel(vision).eval(), "image_processor": CLIPImageProcessor(crop_size=32, size=32)}
    model = make_transformer(in_channels=36, image_dim=8, added_kv_proj_dim=64)
    pipe = make_pipe(parts, model, diffusers.WanImageToVideoPipeline, **image)
    # Wan takes the last 512 rows for text and all before them for image: 512 rows of text, so that there is an image part.
    options = {"image": Image.new("RGB", (96, 96), (200, 30, 60)), "max_sequence_length": 512, "steps": 1}
    before = sample(pipe, **options)
    expected = with_formula(model.blocks, plain(0.6), lambda: sample(pipe, **options))
    sd.apply(pipe, sparsity=0.6, **BLOCKS)
    ours, report = sample(pipe, **options), sd.report(pipe)
    sd.restore(pipe)
    assert relative(ours, expected) < 2e-5 < relative(ours, before) and torch.equal(sample(pipe, **options), before)
    assert [(row.name, row.sparse, row.calls) for row in report.rows] == [(f"blocks.{i}.attn1", 2, 2) for i in range(3)]


def test_vace_blocks_are_layers_of_their_own(parts):
    from PIL import Image

    model = make_transformer(diffusers.WanVACETransformer3DModel, vace_layers=[0, 2], vace_in_channels=96)
    pipe = make_pipe(parts, model, diffusers.WanVACEPipeline)
    black = [Image.new("RGB", (96, 96), (30 * i, 0, 90)) for i in range(9)]
    options = {"video": black, "mask": [Image.new("L", (96, 96), 255)] * 9, "steps": 1}
    before = sample(pipe, **options)
    expected = with_formula([*model.blocks, *model.vace_blocks], plain(0.6), lambda: sample(pipe, **options))
    sd.apply(pipe, sparsity=0.6, **BLOCKS)
    assert relative(sample(pipe, **options), expected) < 2e-5 < relative(expected, before)
    names = [*(f"blocks.{i}.attn1" for i in range(3)), "vace_blocks.0.attn1", "vace_blocks.1.attn1"]
    assert [row.name for row in sd.report(pipe).rows] == names

    sd.restore(pipe)
    assert torch.equal(sample(pipe, **options), before)


def test_a_pack_leaves_vace_blocks_to_themselves(tmp_path):
    model = make_transformer(diffusers.WanVACETransformer3DModel, vace_layers=[0, 2], vace_in_channels=96)
    control = {"control_hidden_states": torch.randn(1, 96, 3, 12, 12, generator=torch.Generator().manual_seed(3))}
    pack, path = make_pack(model, tmp_path)
    alpha, eye = torch.tensor([[0.6, 0.5]] * 2).double(), torch.eye(32).double()
    learned = [(*(torch.from_numpy(pack.layer(i)[name]).double() for name in ("router_q", "router_k", "mix_values")),) for i in range(3)]
    learned += [(eye, eye, alpha)] * 2

    def compute(i):
        return lambda q, k, v: sla2_formula(q, k, v, *learned[i], 0.6)

    before = call(model, **control)
    expected = with_formula([*model.blocks, *model.vace_blocks], compute, lambda: call(model, **control))
    sd.apply(model, pack=path)
    assert relative(call(model, **control), expected) < 2e-5
    sd.apply(model, sparsity=0.6, dense_layers_last=1, schedule="layers 3: full", **BLOCKS)  # 3 is vace_blocks.0; the last layer is 2
    call(model, **control)
    assert [row.full for row in sd.report(model).rows] == [0, 0, 1, 1, 0]
    sd.apply(model, pack=make_pack(model, tmp_path, "sla1", linear_scope="global", smooth_k=False, router="sla1")[0])
    call(model, **control)
    assert [sum(row.fallbacks.values()) for row in sd.report(model).rows] == [0, 0, 0, 1, 1]
    sd.restore(model)
    assert torch.equal(call(model, **control), before)
    with pytest.raises(sla2.ArgumentError, match="layer 5 is unknown; the model has layers 0 to 2, and 3 to 4 beside them"):
        sd.apply(model, schedule="layers 5: full")


def test_two_transformers_share_the_steps(parts):
    pipe = make_pipe(parts, make_transformer(), transformer_2=make_transformer(seed=1), boundary_ratio=0.875)
    before = sample(pipe, steps=5)
    sd.apply(pipe, sparsity=0.6, dense_steps_first=1, dense_steps_last=1, **BLOCKS)
    sample(pipe, steps=5)
    rows = sd.report(pipe).rows
    high, low = (
        [row for row in rows if not row.name.startswith("transformer_2")],
        [row for row in rows if row.name.startswith("transformer_2")],
    )
    assert len(high) == len(low) == 3 and high[0].calls + low[0].calls == 10
    assert [(row.full, low[i].full) for i, row in enumerate(high)] == [(2, 2)] * 3 and high[0].sparse > 0
    sd.restore(pipe)
    assert torch.equal(sample(pipe, steps=5), before)


# ---- steps --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler", "FlowMatchHeunDiscreteScheduler"])
def test_steps_are_counted_with_two_calls_each(parts, pipe, solver):
    options = {} if "Flow" in solver else {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    scheduler = getattr(diffusers, solver)(**options)
    other = make_pipe(parts, pipe.transformer, scheduler=scheduler)
    seen = []

    def make(_layer, _heads, _dim):
        return lambda q, k, v, *, grid, step_info: seen.append((grid, step_info))

    attachment = sd.attach(pipe.transformer, make, pipeline=other)
    sample(other, steps=5)
    sample(other, steps=5)
    attachment.detach()
    steps = len(scheduler.timesteps)  # 9 for Heun, whose list holds each inner timestep twice
    indices = [info.index for _, info in seen]
    assert indices == [i for i in range(steps) for _ in range(2 * 3)] * 2
    assert {info.total for _, info in seen} == {steps} and {grid for grid, _ in seen} == {(3, 6, 6)}


def test_a_transformer_alone_counts_by_timestep(pipe):
    seen = []
    attachment = sd.attach(pipe.transformer, lambda *_: lambda q, k, v, *, grid, step_info: seen.append(step_info), steps=3)
    for timestep in (900.0, 900.0, 500.0, 100.0, 100.0, 900.0, 500.0):
        call(pipe.transformer, timestep=timestep)
    attachment.detach()
    assert [info.index for info in seen[::3]] == [0, 0, 1, 2, 2, 0, 1] and {info.total for info in seen} == {3}


def test_windows_of_steps_and_layers(pipe):
    sd.apply(pipe, sparsity=0.6, schedule="layers 0,-1: pooled@0.4; steps 0-40%: full", dense_steps_last=1, **BLOCKS)
    sample(pipe, steps=5)
    report = sd.report(pipe)
    sd.restore(pipe)
    assert [(row.calls, row.full, row.sparse) for row in report.rows] == [(10, 6, 4)] * 3
    blocks, expected = 7, [0.4, 0.6, 0.4]
    assert [row.sparsity for row in report.rows] == pytest.approx([1 - round((1 - s) * blocks) / blocks for s in expected])


# ---- truth of the report ------------------------------------------------------------------------------------------------------


def test_the_report_tells_what_was_measured(pipe):
    sd.apply(pipe, sparsity=0.6, probe=1.0, **BLOCKS)
    call(pipe.transformer)
    report = sd.report(pipe)
    sd.restore(pipe)
    found = []

    def measure(_layer):
        def one(q, k, v):
            full = (q @ k.transpose(-1, -2) / 32**0.5).softmax(-1) @ v
            out = plain(0.6)(0)(q, k, v)
            found.append(((out - full).abs().sum() / full.abs().sum()).item())
            return out

        return one

    with_formula(pipe.transformer.blocks, measure, lambda: call(pipe.transformer))
    assert [row.probe_relative_l1 for row in report.rows] == pytest.approx(found, rel=1e-4)
    assert all(row.seconds > 0 and row.probe_calls == 1 for row in report.rows)
    assert report.to_dict()["layers"][1]["name"] == "blocks.1.attn1" and "blocks.2.attn1" in str(report)


FALLBACKS = {
    "fewer than min_tokens = 109": ({"min_tokens": 109}, {}),
    "too few tokens: of 108 in 2 blocks, sparsity 0.1 skips none": ({"block_k": 64, "sparsity": 0.1}, {}),
    "the number of steps is unknown": ({"dense_steps_last": 1}, {"timestep": -5.0}),
    "12 channels per head; expected 32 to 256 in steps of 8": ({}, {"attention_head_dim": 12}),
    "element type torch.float64": ({}, {"double": True}),
}


@pytest.mark.parametrize("reason", FALLBACKS)
def test_calls_that_cannot_be_served_fall_back_and_say_why_once(parts, caplog, reason):
    settings, changes = FALLBACKS[reason]
    double, timestep = changes.get("double", False), changes.get("timestep", 500.0)
    model = make_transformer(**{name: value for name, value in changes.items() if name == "attention_head_dim"})
    pipe = make_pipe(parts, model)
    if double:
        model.double()
        model.rope.double()
    run = (lambda: call_double(model)) if double else (lambda: call(model, timestep=timestep))
    before = run()
    with caplog.at_level(logging.WARNING, "sla2.diffusers"):
        sd.apply(pipe, **{"sparsity": 0.6, **BLOCKS, **settings})
        assert torch.equal(run(), before) and torch.equal(run(), before)
    assert len(caplog.records) == 1 and reason in caplog.text
    for row in sd.report(pipe).rows:
        assert (row.calls, row.sparse, row.full) == (2, 0, 0) and [reason in text for text in row.fallbacks] == [True]
        assert list(row.fallbacks.values()) == [2] and row.sparsity is None and row.seconds == 0
    assert f"fell back 6 times: {next(iter(sd.report(pipe).rows[0].fallbacks))}" in str(sd.report(pipe))


def call_double(model):
    g = torch.Generator().manual_seed(2)
    latent, text = torch.randn(1, 16, 3, 12, 12, generator=g), torch.randn(1, 20, 32, generator=g)
    with torch.no_grad():
        return model(latent.double(), torch.tensor([500.0]).double(), text.double(), return_dict=False)[0]


def test_masks_text_and_other_devices_go_to_the_earlier_processor(pipe):
    attn, rope = pipe.transformer.blocks[0].attn1, pipe.transformer.rope(torch.zeros(1, 16, 3, 12, 12))
    x = torch.randn(1, 108, 64)
    cases = [(x, None, torch.zeros(1, 1, 108, 108), rope), (x, torch.randn(1, 108, 64), None, rope), (x, None, None, None)]
    with torch.no_grad():
        before = [attn(*case) for case in cases]
        sd.apply(pipe, sparsity=0.6, **BLOCKS)
        after = [attn(*case) for case in cases]
        usual = attn(x, None, None, rope)
        for device in ("cuda", "xpu"):
            elsewhere = sd.Call(108, 1, torch.float32, torch.device(device), (3, 6, 6), sd.StepInfo(0, 5, 500.0), False, None)
            assert not attn.processor.compute.decide(elsewhere)
    row = sd.report(pipe).rows[0]
    sd.restore(pipe)
    assert all(torch.equal(a, b) for a, b in zip(after, before)) and usual.shape == x.shape
    reasons = ("an attention mask is given", "keys come from other tokens", "no rotary embedding")
    (no_gpu,) = set(row.fallbacks) - {*reasons, "tensors on xpu; expected the CPU or a CUDA device"}
    assert "NVIDIA" in no_gpu or "CUDA" in no_gpu  # the library's own words
    assert set(row.fallbacks.values()) == {1} and len(row.fallbacks) == 5 and row.sparse == 1


# ---- the user's mistakes ------------------------------------------------------------------------------------------------------


def test_mistakes_are_named_and_change_nothing(pipe, tmp_path):
    _, path = make_pack(pipe.transformer, tmp_path)
    before = dict(pipe.transformer.attn_processors)
    other = make_pack(make_transformer(text_dim=32, attention_head_dim=64), tmp_path)[0]
    other.base_shapes = "ef" * 32
    wrong = [
        (sla2.ArgumentError, "layer 7 is unknown; the model has layers 0 to 2", {"schedule": "layers 7: full"}),
        (sla2.ArgumentError, "block_q = 128 contradicts the router pack", {"pack": path, "block_q": 128}),
        (sla2.ArgumentError, "probe is 2; expected the fraction", {"probe": 2}),
        (sla2.ArgumentError, "sparsity is -1", {"sparsity": -1}),
        (sla2.ModelMismatchError, "base_shapes efefefefefef…, this model has", {"pack": other}),
        (sla2.FileMissingError, "no such file", {"pack": tmp_path / "nowhere"}),
    ]
    wrong.append((sla2.ModelMismatchError, "for a model of 4 layers", {"pack": sla2.RouterPack(4, 2, 32, base_shapes="x")}))
    for error, message, settings in wrong:
        with pytest.raises(error, match=message):
            sd.apply(pipe, **settings)
        assert pipe.transformer.attn_processors == before
    tied = sla2.RouterPack(3, 2, 32, kappa=(0.4,), alpha_mode="block", grid=(3, 6, 7), **BLOCKS)
    sd.apply(pipe, pack=tied)
    with pytest.raises(sla2.ModelMismatchError, match="each query block of 3x6x7 tokens .* this call has 3x6x6"):
        call(pipe.transformer)
    sd.restore(pipe)
    with pytest.raises(sla2.ArgumentError, match="a transformer alone does not know how many steps"):
        sd.apply(pipe.transformer, preset="balanced")
    with pytest.raises(sla2.ArgumentError, match="nothing is applied to this pipeline"):
        sd.report(pipe)
    with pytest.raises(sla2.ArgumentError, match="has no transformer; expected a Wan pipeline"):
        sd.apply(object())
    with pytest.raises(sla2.ArgumentError, match="Linear: no self-attention layer was found"):
        sd.apply(torch.nn.Linear(3, 3))
    sd.restore(pipe)  # nothing to undo


def test_other_weights_of_the_same_shapes_are_a_warning(pipe, tmp_path, caplog):
    _, path = make_pack(make_transformer(seed=5), tmp_path)
    with caplog.at_level(logging.WARNING, "sla2.diffusers"):
        sd.apply(pipe, pack=path)
    sd.restore(pipe)
    assert "made on other weights of the same shapes" in caplog.text


# ---- attach -------------------------------------------------------------------------------------------------------------------


def test_a_module_is_part_of_the_model_while_attached(pipe):
    from sla2.nn import SLA2Attention

    class Attention(SLA2Attention):
        def forward(self, q, k, v, *, grid, step_info):
            return super().forward(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)

    model, before = pipe.transformer, call(pipe.transformer)
    attachment = sd.attach(model, lambda layer, heads, dim: Attention(heads, dim, sparsity=0.6, **BLOCKS) if layer != 1 else None)
    names = [name for name, _ in model.named_parameters() if ".sla2." in name]
    assert names == [f"blocks.{i}.attn1.sla2.{x}" for i in (0, 2) for x in ("proj_q", "proj_k", "alpha")]
    call(model, grad=True).sum().backward()
    assert model.blocks[2].attn1.sla2.alpha.grad.abs().max() > 0
    model.zero_grad()
    with pytest.raises(sla2.StateError, match=r"blocks\.0\.attn1: a submodule sla2 is attached already"):
        sd.attach(model, lambda layer, heads, dim: Attention(heads, dim))
    second = sd.attach(model, lambda *_: lambda q, k, v, *, grid, step_info: None)
    with pytest.raises(sla2.StateError, match="its processor was exchanged after this attachment"):
        attachment.detach()
    second.detach()
    attachment.detach()
    attachment.detach()
    assert torch.equal(call(model), before) and not [name for name in model.state_dict() if "sla2" in name]


def test_a_copy_keeps_an_attention_of_its_own(pipe):
    import copy

    sd.apply(pipe, sparsity=0.6, **BLOCKS)
    twin = copy.deepcopy(pipe.transformer)
    sparse = call(pipe.transformer)
    sd.restore(pipe)
    assert torch.equal(call(twin), sparse) and not torch.equal(call(pipe.transformer), sparse)
    sd.restore(twin)
    assert torch.equal(call(twin), call(pipe.transformer))


def test_the_attention_backend_stays_the_earlier_processors(pipe):
    sd.apply(pipe, sparsity=0.6, **BLOCKS)
    pipe.transformer.set_attention_backend("native")
    assert pipe.transformer.blocks[0].attn1.processor.inner._attention_backend is not None
    pipe.transformer.reset_attention_backend()
    sd.restore(pipe)
    assert pipe.transformer.blocks[0].attn1.processor._attention_backend is None
