# SPDX-License-Identifier: Apache-2.0
"""The diffusion transformer against diffusers' WanTransformer3DModel: every parameter random, ragged grids, block by block."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file
from torch.nn.attention import SDPBackend, sdpa_kernel

PER_BLOCK, WHOLE_MODEL = 1e-5, 1e-4
TEXT_LEN, TEXT_DIM = 512, 64

# diffusers name -> original name; norm2 and norm3 swap
RENAMES = [
    ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    ("condition_embedder.time_proj", "time_projection.1"),
    ("attn1.to_out.0", "self_attn.o"),
    ("attn2.to_out.0", "cross_attn.o"),
    ("attn1.to_", "self_attn."),
    ("attn2.to_", "cross_attn."),
    ("attn1.", "self_attn."),
    ("attn2.", "cross_attn."),
    (".norm2.", ".norm3."),
    ("ffn.net.0.proj", "ffn.0"),
    ("ffn.net.2", "ffn.2"),
    ("proj_out", "head.head"),
]


def original_name(name: str) -> str:
    if name == "scale_shift_table":
        return "head.modulation"
    for ours, theirs in RENAMES:
        name = name.replace(ours, theirs)
    return name.replace("scale_shift_table", "modulation")


def make_model(heads=2, head_dim=128, layers=3, ffn=512, seed=0, text_dim=TEXT_DIM):
    model = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=heads,
        attention_head_dim=head_dim,
        in_channels=16,
        out_channels=16,
        text_dim=text_dim,
        freq_dim=256,
        ffn_dim=ffn,
        num_layers=layers,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=1024,
    ).eval()
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=g)
            if "norm" in name and name.endswith("weight"):
                p.copy_(1 + 0.3 * noise)
            elif name.endswith("bias"):
                p.copy_(0.1 * noise)
            elif "scale_shift_table" in name:
                p.copy_(0.3 * noise)
            else:
                p.copy_(noise / p[0].numel() ** 0.5)
    return model


def save_model(model, path, naming="original", dtype=None):
    state = {name: (value.to(dtype) if dtype else value).contiguous() for name, value in model.state_dict().items()}
    if naming != "diffusers":
        prefix = "model.diffusion_model." if naming == "comfy" else ""
        state = {prefix + original_name(name): value for name, value in state.items()}
    config = {"attention_head_dim": model.config.attention_head_dim, "num_attention_heads": model.config.num_attention_heads}
    save_file(state, str(path), metadata={"format": "pt", "config": json.dumps(config)})
    return path


def make_input(grid, text_rows=37, timestep=700.0, seed=1, text_dim=TEXT_DIM):
    frames, height, width = grid
    g = torch.Generator().manual_seed(seed)
    return {
        "latent": torch.randn(16, frames, 2 * height, 2 * width, generator=g),
        "text": torch.randn(text_rows, text_dim, generator=g),
        "timestep": torch.tensor([timestep]),
    }


def reference(model, inputs, text_len=TEXT_LEN):
    """Velocity and the output of every block, on the CPU with the plain attention kernel. Text padded with zeros."""
    text = inputs["text"]
    padded = torch.zeros(max(text_len, len(text)), text.shape[1])
    padded[: len(text)] = text
    seen: dict[str, torch.Tensor] = {}
    hooks = [model.patch_embedding.register_forward_hook(lambda _m, _i, out: seen.update({"block.-1": out.flatten(2).transpose(1, 2)[0]}))]
    for i, block in enumerate(model.blocks):
        hooks.append(block.register_forward_hook(lambda _m, _i, out, i=i: seen.update({f"block.{i}": out[0]})))
    # diffusers takes sines of fp32 angles; ours are fp64. Give it the exact ones, so that only the model is compared;
    # test_sinusoid compares with its own.
    if hasattr(model.condition_embedder, "timesteps_proj"):

        def exact(_module, args, _out):
            angle = args[0].double()[:, None] * 10000.0 ** (-torch.arange(128, dtype=torch.float64) / 128)
            return torch.cat([angle.cos(), angle.sin()], dim=-1).float()

        if inputs.get("exact_sinusoid", True):
            hooks.append(model.condition_embedder.timesteps_proj.register_forward_hook(exact))
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        dtype = next(model.parameters()).dtype
        velocity = model(inputs["latent"][None].to(dtype), inputs["timestep"], padded[None].to(dtype), return_dict=False)[0]
    for hook in hooks:
        hook.remove()
    return {**seen, "velocity": velocity[0]}


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours.double() - theirs.double()).norm() / theirs.double().norm()).item()


@pytest.fixture
def run_dit(run_probe, tmp_path):
    def run(model_path, inputs, *args):
        tensors = {name: value.contiguous() for name, value in inputs.items() if isinstance(value, torch.Tensor)}
        save_file(tensors, str(tmp_path / "in.safetensors"))
        out = tmp_path / "out.safetensors"
        done = run_probe("dit", "forward", "--model", model_path, "--input", tmp_path / "in.safetensors", "--output", out, *args)
        return load_file(str(out)), json.loads(done.stdout)

    return run


def check(ours, theirs, per_block=PER_BLOCK, whole=WHOLE_MODEL):
    worst = 0.0
    for name in theirs:
        if name.startswith("block."):
            worst = max(worst, relative(ours[name], theirs[name]))
            assert relative(ours[name], theirs[name]) <= per_block, f"{name}: {relative(ours[name], theirs[name]):.2e}"
    final = relative(ours["velocity"], theirs["velocity"])
    print(f"worst block {worst:.2e}, velocity {final:.2e}")
    assert final <= whole


GRIDS = [(5, 8, 8), (1, 3, 5), (3, 7, 9), (2, 16, 21)]


@pytest.mark.parametrize("grid", GRIDS)
def test_every_block_equals_diffusers(run_dit, tmp_path, grid):
    model = make_model()
    inputs = make_input(grid, text_rows=5 + 11 * grid[0])
    ours, report = run_dit(save_model(model, tmp_path / "m.safetensors"), inputs, "--token-chunk", 100)
    check(ours, reference(model, inputs))
    assert report["first_bad_block"] == -1
    assert report["progress"][-1] == 1.0 and report["progress"] == sorted(report["progress"])


def test_other_head_sizes(run_dit, tmp_path):
    model = make_model(heads=3, head_dim=96, ffn=200, seed=3)
    inputs = make_input((2, 5, 7))
    ours, _ = run_dit(save_model(model, tmp_path / "m.safetensors"), inputs)
    check(ours, reference(model, inputs))


def test_head_size_64(run_dit, tmp_path):
    model = make_model(heads=3, head_dim=64, ffn=256, seed=4)
    inputs = make_input((3, 4, 6))
    ours, _ = run_dit(save_model(model, tmp_path / "m.safetensors"), inputs)
    check(ours, reference(model, inputs))


@pytest.mark.parametrize("rows", [1, 511, 512, 530])
def test_prompt_lengths(run_dit, tmp_path, rows):
    """One row, one padding row, none, and more rows than the model's text length."""
    model = make_model(layers=2)
    inputs = make_input((2, 4, 4), text_rows=rows)
    ours, _ = run_dit(save_model(model, tmp_path / "m.safetensors"), inputs)
    check(ours, reference(model, inputs))


def test_sinusoid(run_dit, tmp_path):
    """diffusers' own fp32 sinusoid is off by up to 1e-4 rad near t = 1000; small timesteps agree to rounding."""
    model = make_model(layers=2)
    path = save_model(model, tmp_path / "m.safetensors")
    for timestep, bound in ((0.0, 1e-5), (3.0, 1e-5), (999.0, 2e-4)):
        inputs = {**make_input((1, 4, 4), timestep=timestep), "exact_sinusoid": False}
        ours, _ = run_dit(path, inputs)
        check(ours, reference(model, inputs), per_block=bound, whole=max(bound, WHOLE_MODEL))


def test_three_namings_give_the_same_bytes(run_dit, tmp_path):
    model = make_model(layers=2)
    inputs = make_input((2, 3, 5))
    results = [
        run_dit(save_model(model, tmp_path / f"{naming}.safetensors", naming), inputs)[0]["velocity"]
        for naming in ("original", "comfy", "diffusers")
    ]
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.parametrize("newer", [False, True], ids=["scale_weight", "weight_scale"])
def test_scaled_fp8_is_the_dequantised_model(run_dit, tmp_path, newer):
    """ComfyUI's fp8 files: matrices of blocks as e4m3 with a scale each, the rest as it was."""
    model = make_model()
    held = {}
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.startswith("blocks.") and p.ndim == 2 and name.endswith(".weight"):
                scale = p.abs().max() / 448
                held[original_name(name)] = ((p / scale).to(torch.float8_e4m3fn), scale)
                p.copy_((p / scale).to(torch.float8_e4m3fn).float() * scale)
    plain = save_model(model, tmp_path / "plain.safetensors")
    state = load_file(str(plain))
    for name, (stored, scale) in held.items():
        state[name] = stored
        state[name.removesuffix("weight") + ("weight_scale" if newer else "scale_weight")] = scale.reshape(() if newer else (1,))
    if not newer:
        state["scaled_fp8"] = torch.zeros(2).to(torch.float8_e4m3fn)
    config = {"attention_head_dim": model.config.attention_head_dim, "num_attention_heads": model.config.num_attention_heads}
    path = tmp_path / "fp8.safetensors"
    save_file({"model.diffusion_model." + name: value for name, value in state.items()}, str(path), {"config": json.dumps(config)})
    assert len(held) == 3 * 10
    assert path.stat().st_size < plain.stat().st_size / 2
    inputs = make_input((3, 5, 6))
    for precision in ("f32", "bf16"):
        ours, _ = run_dit(path, inputs, "--precision", precision)
        assert torch.equal(ours["velocity"], run_dit(plain, inputs, "--precision", precision)[0]["velocity"])
        if precision == "f32":
            check(ours, reference(model, inputs))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_storage_computes_in_fp32(run_dit, tmp_path, dtype):
    model = make_model()
    path = save_model(model, tmp_path / "m.safetensors", dtype=dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.to(dtype).float())
    inputs = make_input((3, 5, 6))
    check(run_dit(path, inputs)[0], reference(model, inputs))


def test_bf16_products_err_less_than_twice_torch(run_dit, tmp_path):
    """Error of bf16 computing against fp32 on the same bf16-rounded weights: ours against twice that of torch in bf16."""
    model = make_model()
    path = save_model(model, tmp_path / "m.safetensors", dtype=torch.bfloat16)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.bfloat16().float())
    inputs = make_input((2, 6, 6))
    exact = reference(model, inputs)["velocity"]
    ours = relative(run_dit(path, inputs, "--precision", "bf16")[0]["velocity"], exact)
    theirs = relative(reference(model.to(torch.bfloat16), inputs)["velocity"], exact)
    print(f"bf16 error: ours {ours:.2e}, torch {theirs:.2e}")
    assert 0 < ours <= 2 * theirs


class ByteLinear(torch.nn.Module):
    """What an 8-bit Linear computes, from the formula: x ~ s (q - z) for each token, W ~ s q for each output channel."""

    def __init__(self, linear: torch.nn.Linear, levels=255):
        super().__init__()
        step = linear.weight.abs().amax(-1, keepdim=True) / 127
        self.weight, self.bias, self.levels = torch.round(linear.weight / step) * step, linear.bias, levels

    def forward(self, x):
        low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
        step = ((high - low) / self.levels).clamp(min=1e-30)
        zero = torch.round(-low / step)
        held = ((torch.round(x / step) + zero).clamp(0, self.levels) - zero) * step
        return torch.nn.functional.linear(held, self.weight, self.bias)


def in_bytes(model, levels=255):
    """The same model with the Linears that linear_bits = 8 means as ByteLinear: those of blocks but for the prompt's keys and values."""
    model = copy.deepcopy(model)
    for name, linear in list(model.named_modules()):
        if isinstance(linear, torch.nn.Linear) and name.startswith("blocks.") and not name.endswith(("attn2.to_k", "attn2.to_v")):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, ByteLinear(linear, levels))
    return model


@pytest.mark.parametrize(("isa", "levels"), [("avx512_bf16", 255), ("avx2", 127), ("scalar", 127)])
def test_8_bit_linears_err_like_the_formula(run_dit, tmp_path, monkeypatch, isa, levels):
    """Error against fp32: no more than twice the formula's in torch, block by block; and the two agree where it can be told.

    A number that falls on the other side of a rounding is a step off, so the two are not equal; but they are far closer to
    each other than to fp32.
    """
    if isa == "avx512_bf16" and "avx512_vnni" not in Path("/proc/cpuinfo").read_text(encoding="utf-8"):
        pytest.skip("this CPU has no VNNI")
    monkeypatch.setenv("SLA2_ISA", isa)
    model = make_model()
    inputs = make_input((2, 6, 7))
    exact, formula = reference(model, inputs), reference(in_bytes(model, levels), inputs)
    ours, _ = run_dit(save_model(model, tmp_path / "m.safetensors"), inputs, "--precision", "f32", "--linear-bits", 8)
    for name in (*(f"block.{i}" for i in range(3)), "velocity"):
        error, formulas, between = (
            relative(a, b) for a, b in ((ours[name], exact[name]), (formula[name], exact[name]), (ours[name], formula[name]))
        )
        print(f"{name}: error {error:.2e}, the formula's {formulas:.2e}, between them {between:.2e}")
        assert 1e-3 < error <= 2 * formulas
        assert between < error / 2
    assert relative(ours["block.-1"], exact["block.-1"]) <= PER_BLOCK  # the patch embedding is not in bytes


def test_nan_passes_8_bit_linears(run_dit, tmp_path):
    """Bytes know no NaN: scales must carry it."""
    model = make_model()
    with torch.no_grad():
        model.blocks[1].ffn.net[2].weight[3, 5] = float("nan")
    _, report = run_dit(save_model(model, tmp_path / "m.safetensors"), make_input((1, 4, 4)), "--linear-bits", 8)
    assert report["first_bad_block"] == 1


def test_threads_and_runs_give_the_same_bytes(run_dit, tmp_path):
    model = make_model()
    path = save_model(model, tmp_path / "m.safetensors", dtype=torch.bfloat16)
    inputs = make_input((3, 14, 15))
    for precision, bits in (("f32", 16), ("bf16", 16), ("bf16", 8)):
        first, *others = [run_dit(path, inputs, "--threads", n, "--precision", precision, "--linear-bits", bits)[0] for n in (1, 2, 2, 5)]
        for other in others:
            assert all(torch.equal(first[name], other[name]) for name in first)


def test_sparse_policy_by_layer(run_dit, tmp_path):
    """A sparse layer reports what it skipped, dense layers before it are untouched; keeping every block is full attention."""
    model = make_model()
    path = save_model(model, tmp_path / "m.safetensors")
    inputs = make_input((4, 16, 16))
    dense, _ = run_dit(path, inputs)
    sparse, report = run_dit(path, {**inputs, "sparsity": torch.tensor([0.0, 0.75, 0.0])})
    assert torch.equal(dense["block.0"], sparse["block.0"])
    assert not torch.equal(dense["block.1"], sparse["block.1"])
    assert [layer["sparse"] for layer in report["layers"]] == [False, True, False]
    assert report["layers"][1]["sparsity"] == pytest.approx(0.75, abs=0.05)
    kept_all, _ = run_dit(path, {**inputs, "sparsity": torch.tensor([1e-9, 1e-9, 1e-9])})
    assert relative(kept_all["velocity"], dense["velocity"]) < 1e-4


@pytest.mark.parametrize("order", ["tiles", "hilbert"])
@pytest.mark.parametrize("grid", [(5, 9, 7), (1, 6, 8)])
def test_token_order_changes_nothing_but_sparsity(run_dit, tmp_path, grid, order):
    """Attention does not care about the order of tokens once RoPE knows their places; which blocks are kept does."""
    model = make_model()
    path = save_model(model, tmp_path / "m.safetensors")
    inputs = make_input(grid)
    check(
        {"velocity": run_dit(path, inputs, "--token-order", order)[0]["velocity"]},
        {"velocity": reference(model, inputs, TEXT_LEN)["velocity"]},
    )


def test_nan_in_a_weight_names_the_block(run_dit, tmp_path):
    model = make_model()
    with torch.no_grad():
        model.blocks[1].ffn.net[2].bias[3] = float("nan")
    _, report = run_dit(save_model(model, tmp_path / "m.safetensors"), make_input((1, 4, 4)))
    assert report["first_bad_block"] == 1


def test_missing_tensors_are_named(run_probe, tmp_path):
    model = make_model(layers=2)
    path = save_model(model, tmp_path / "m.safetensors")
    state = load_file(str(path))
    for name in ("blocks.1.cross_attn.v.bias", "blocks.0.norm3.weight"):
        del state[name]
    config = json.dumps({"attention_head_dim": 128, "num_attention_heads": 2})
    save_file(state, str(path), metadata={"config": config})
    save_file(make_input((1, 4, 4)), str(tmp_path / "in.safetensors"))
    done = run_probe("dit", "forward", "--model", path, "--input", tmp_path / "in.safetensors", "--output", tmp_path / "o", check=False)
    assert done.returncode == 1
    assert "blocks.1.cross_attn.v.bias" in done.stderr or "blocks.0.norm3.weight" in done.stderr


def test_plan_is_what_is_used(run_probe):
    """Planned bytes against the growth of the process, weights included."""
    for extra in (
        ["--stored", "bf16", "--layers", "4"],
        ["--stored", "f32", "--layers", "2"],
        ["--stored", "bf16", "--layers", "8", "--linear-bits", "8"],
    ):
        done = run_probe("dit", "bench", "--grid", "3x12x16", "--repeat", "1", *extra)
        result = json.loads(done.stdout)
        assert result["planned_bytes"] == pytest.approx(result["used_bytes"], rel=0.10), result["plan"]
