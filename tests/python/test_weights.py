# SPDX-License-Identifier: Apache-2.0
"""Files written by the real safetensors package, models by diffusers and transformers; names against diffusers' converters."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers, convert_wan_vae_to_diffusers
from safetensors.torch import load_file, save_file
from transformers import UMT5Config, UMT5EncoderModel

MODEL_MISMATCH, FILE_FORMAT, UNSUPPORTED = "-206", "-203", "-300"


def randomise(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Every parameter random, so that two tensors can never be mistaken for each other."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture(scope="module")
def dit():
    return randomise(
        WanTransformer3DModel(num_attention_heads=3, attention_head_dim=12, text_dim=20, freq_dim=16, ffn_dim=44, num_layers=2), 1
    )


def small_vae(**changes) -> AutoencoderKLWan:
    arguments = dict(base_dim=6, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, temperal_downsample=[False, True, True])
    arguments.update(changes)
    z = arguments["z_dim"]
    arguments.setdefault("latents_mean", [0.25 * i for i in range(z)])
    arguments.setdefault("latents_std", [1 + 0.5 * i for i in range(z)])
    return randomise(AutoencoderKLWan(**arguments), 2)


def converted(run_probe, tmp_path, source, verb="f32"):
    target = tmp_path / "converted.safetensors"
    run_probe("weights", verb, source, target)
    return load_file(target)


def assert_same(got: dict, expected: dict) -> None:
    assert sorted(got) == sorted(expected)
    for name, tensor in expected.items():
        assert got[name].dtype == tensor.dtype, name
        assert torch.equal(got[name], tensor), name


def test_dit_names_invert_diffusers_converter_in_every_variant(dit, run_probe, tmp_path):
    dit.save_pretrained(tmp_path / "transformer")
    original = converted(run_probe, tmp_path, tmp_path / "transformer")
    back = convert_wan_transformer_to_diffusers(dict(original))
    assert_same(back, dit.state_dict())

    variants = {
        "": "",
        "model.diffusion_model.": "",
        "diffusion_model.": "",
        "net.": "_checkpoint_wrapped_module.",
    }
    for prefix, infix in variants.items():
        renamed = {prefix + name.replace(".self_attn", f".{infix}self_attn"): tensor for name, tensor in original.items()}
        save_file(renamed, tmp_path / "variant.safetensors")
        assert_same(converted(run_probe, tmp_path, tmp_path / "variant.safetensors"), original)


@pytest.mark.parametrize(
    "image", [dict(image_dim=24, added_kv_proj_dim=36), dict(image_dim=24, added_kv_proj_dim=36, pos_embed_seq_len=10)]
)
def test_image_to_video_names_map_too_and_are_refused_by_name(image, run_probe, tmp_path):
    model = randomise(
        WanTransformer3DModel(
            num_attention_heads=3, attention_head_dim=12, text_dim=20, freq_dim=16, ffn_dim=44, num_layers=1, in_channels=36, **image
        ),
        3,
    )
    model.save_pretrained(tmp_path / "transformer")
    original = converted(run_probe, tmp_path, tmp_path / "transformer")
    original.pop("blocks.0.cross_attn.norm_added_q.weight", None)
    back = convert_wan_transformer_to_diffusers(dict(original))
    state = model.state_dict()
    renamed = "img_emb.emb_pos"  # diffusers' converter leaves this one alone
    if renamed in back:
        back["condition_embedder.image_embedder.pos_embed"] = back.pop(renamed)
    assert_same(back, state)
    done = run_probe("weights", "dit", tmp_path / "transformer", check=False)
    assert done.returncode == 1 and done.stderr.startswith(UNSUPPORTED)
    assert ("flf2v" if "pos_embed_seq_len" in image else "i2v") in done.stderr


def test_vae_names_invert_diffusers_converter(run_probe, tmp_path):
    """diffusers' converter knows the published depth only; the next test covers other depths."""
    model = small_vae()
    model.save_pretrained(tmp_path / "vae")
    original = converted(run_probe, tmp_path, tmp_path / "vae")
    assert_same(convert_wan_vae_to_diffusers(dict(original)), model.state_dict())
    save_file(original, tmp_path / "original.safetensors")
    assert_same(converted(run_probe, tmp_path, tmp_path / "original.safetensors"), original)


@pytest.mark.parametrize(
    "shape",
    [
        dict(dim_mult=[1, 2], num_res_blocks=1, temperal_downsample=[True], z_dim=4),
        dict(dim_mult=[1, 2, 3], num_res_blocks=3, temperal_downsample=[True, False], z_dim=5),
        dict(dim_mult=[2, 2, 4], num_res_blocks=1, temperal_downsample=[False, True], z_dim=8, decoder_base_dim=10),
    ],
)
def test_vae_of_any_depth(shape, run_probe, tmp_path):
    """The flat original lists are what nn.Sequential makes of diffusers' levels, block by block in their order."""
    model = small_vae(**shape)
    model.save_pretrained(tmp_path / "vae")
    state = model.state_dict()
    expected_blocks = []
    for level in model.decoder.up_blocks:
        expected_blocks += list(level.resnets) + (list(level.upsamplers) if level.upsamplers else [])
    original = converted(run_probe, tmp_path, tmp_path / "vae")
    assert len(original) == len(state)
    residual = {"norm1": "residual.0", "conv1": "residual.2", "norm2": "residual.3", "conv2": "residual.6", "conv_shortcut": "shortcut"}
    for side, blocks in (("encoder.downsamples", list(model.encoder.down_blocks)), ("decoder.upsamples", expected_blocks)):
        for index, block in enumerate(blocks):
            for name, tensor in block.state_dict().items():
                head, _, tail = name.partition(".")
                assert torch.equal(original[f"{side}.{index}.{residual.get(head, head)}.{tail}"], tensor)
    read = json.loads(run_probe("weights", "vae", tmp_path / "vae").stdout)
    config = model.config
    assert read == {
        "base_dim": 6,
        "decoder_base_dim": config.decoder_base_dim or 6,
        "z_dim": config.z_dim,
        "res_blocks": config.num_res_blocks,
        "dim_mult": config.dim_mult,
        "temporal_downsample": config.temperal_downsample,
        "latents_mean": config.latents_mean,
        "latents_std": config.latents_std,
    }


def test_published_vae_statistics_are_the_default(run_probe, tmp_path):
    model = AutoencoderKLWan()
    save_file({name: tensor.to(torch.bfloat16) for name, tensor in model.state_dict().items()}, tmp_path / "wan_vae.safetensors")
    read = json.loads(run_probe("weights", "vae", tmp_path / "wan_vae.safetensors").stdout)
    assert read["latents_mean"] == pytest.approx(model.config.latents_mean, rel=1e-6)
    assert read["latents_std"] == pytest.approx(model.config.latents_std, rel=1e-6)
    info = json.loads(run_probe("weights", "info", tmp_path / "wan_vae.safetensors").stdout)
    assert (info["kind"], info["naming"], info["parameters"]) == ("wan_vae", "diffusers", sum(p.numel() for p in model.parameters()))


UMT5_ORIGINAL = {  # wan/modules/t5.py
    "layer.0.layer_norm": "norm1",
    "layer.0.SelfAttention.q": "attn.q",
    "layer.0.SelfAttention.k": "attn.k",
    "layer.0.SelfAttention.v": "attn.v",
    "layer.0.SelfAttention.o": "attn.o",
    "layer.0.SelfAttention.relative_attention_bias": "pos_embedding.embedding",
    "layer.1.layer_norm": "norm2",
    "layer.1.DenseReluDense.wi_0": "ffn.gate.0",
    "layer.1.DenseReluDense.wi_1": "ffn.fc1",
    "layer.1.DenseReluDense.wo": "ffn.fc2",
}


def original_umt5(name: str) -> str:
    if name == "shared.weight":
        return "token_embedding.weight"
    if name.startswith("encoder.final_layer_norm"):
        return "norm.weight"
    _, _, index, rest = name.split(".", 3)
    return f"blocks.{index}.{UMT5_ORIGINAL[rest.removesuffix('.weight')]}.weight"


def test_umt5_names(run_probe, tmp_path):
    model = randomise(UMT5EncoderModel(UMT5Config(vocab_size=50, d_model=24, d_kv=6, d_ff=40, num_layers=3, num_heads=4)), 4)
    expected = {name: tensor for name, tensor in model.state_dict().items() if name != "encoder.embed_tokens.weight"}
    model.save_pretrained(tmp_path / "text_encoder")
    assert_same(converted(run_probe, tmp_path, tmp_path / "text_encoder"), expected)
    save_file({original_umt5(name): tensor for name, tensor in expected.items()}, tmp_path / "original.safetensors")
    assert_same(converted(run_probe, tmp_path, tmp_path / "original.safetensors"), expected)
    both = dict(expected) | {"encoder.embed_tokens.weight": expected["shared.weight"].clone()}
    save_file(both, tmp_path / "both.safetensors")
    assert_same(converted(run_probe, tmp_path, tmp_path / "both.safetensors"), expected)
    inside = dict(expected) | {"spiece_model": torch.arange(9, dtype=torch.uint8)}
    save_file(inside, tmp_path / "comfy.safetensors")
    info = json.loads(run_probe("weights", "info", tmp_path / "comfy.safetensors").stdout)
    assert info["kind"] == "umt5" and info["sizes"]["tokenizer_inside"] and info["sizes"]["vocabulary"] == 50


def test_sharded_folder(dit, run_probe, tmp_path):
    dit.save_pretrained(tmp_path / "whole")
    dit.save_pretrained(tmp_path / "shards", max_shard_size="40KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    assert_same(converted(run_probe, tmp_path, tmp_path / "shards"), converted(run_probe, tmp_path, tmp_path / "whole"))


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
        torch.float64,
        torch.int8,
        torch.uint8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.bool,
    ],
)
def test_every_storage_type_converts_like_torch(dtype, run_probe, tmp_path):
    generator = torch.Generator().manual_seed(5)
    numbers = torch.randn(7, 4099, generator=generator) * 50  # no round sizes, several chunks
    if dtype == torch.uint8:
        numbers = numbers.abs()
    stored = numbers.to(dtype)
    save_file({"a": stored, "scalar": stored[0, 0].clone()}, tmp_path / "a.safetensors", metadata={"x": "ü"})
    assert_same(converted(run_probe, tmp_path, tmp_path / "a.safetensors"), {"a": stored.float(), "scalar": stored[0, 0].float()})
    half = converted(run_probe, tmp_path, tmp_path / "a.safetensors", verb="bf16")
    assert torch.equal(half["a"], stored.float().bfloat16())
    copy = converted(run_probe, tmp_path, tmp_path / "a.safetensors", verb="copy")  # read by the package itself
    assert copy["a"].dtype == dtype
    assert torch.equal(copy["a"].view(torch.uint8), stored.view(torch.uint8))


def test_dit_configuration_is_read_and_checked(dit, run_probe, tmp_path):
    dit.save_pretrained(tmp_path)
    read = json.loads(run_probe("weights", "dit", tmp_path).stdout)
    assert {key: read[key] for key in ("dim", "heads", "head_dim", "layers", "ffn_dim", "text_dim", "freq_dim")} == {
        "dim": 36,
        "heads": 3,
        "head_dim": 12,
        "layers": 2,
        "ffn_dim": 44,
        "text_dim": 20,
        "freq_dim": 16,
    }
    config = json.loads((tmp_path / "config.json").read_text())

    def refused(**changes) -> str:
        (tmp_path / "config.json").write_text(json.dumps(config | changes))
        done = run_probe("weights", "dit", tmp_path, check=False)
        assert done.returncode == 1 and done.stderr.startswith(FILE_FORMAT), done.stderr
        return done.stderr

    assert "'num_layers': expected 2" in refused(num_layers=3)
    assert "head size 10" in refused(attention_head_dim=10)
    assert "'eps'" in refused(eps=-1)
    assert "'patch_size'" in refused(patch_size=[1, 4, 4])
    assert "a whole number" in refused(ffn_dim="44")
    (tmp_path / "config.json").unlink()
    done = run_probe("weights", "dit", tmp_path, check=False)
    assert "attention_head_dim" in done.stderr  # width 36 does not tell

    # the configuration may also travel inside the file
    state = load_file(tmp_path / "diffusion_pytorch_model.safetensors")
    save_file(state, tmp_path / "diffusion_pytorch_model.safetensors", metadata={"config": json.dumps(config)})
    assert json.loads(run_probe("weights", "dit", tmp_path).stdout) == read


def test_missing_and_misshapen_tensors_are_listed(dit, run_probe, tmp_path):
    dit.save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    del state["blocks.1.attn1.to_k.bias"], state["proj_out.bias"]
    state["blocks.0.attn2.norm_q.weight"] = torch.zeros(7)
    state["blocks.0.surprise"] = torch.zeros(7)
    save_file(state, path)
    done = run_probe("weights", "dit", tmp_path, check=False)
    assert done.stderr.startswith(FILE_FORMAT)
    for part in (
        "missing (2): ",
        "blocks.1.self_attn.k.bias",
        "head.head.bias",
        "not used (1): blocks.0.surprise",
        "blocks.0.cross_attn.norm_q.weight [7] instead of [36]",
    ):
        assert part in done.stderr


def test_a_wrong_part_is_called_what_it_is(dit, run_probe, tmp_path):
    dit.save_pretrained(tmp_path / "transformer")
    small_vae().save_pretrained(tmp_path / "vae")
    wrong = run_probe("weights", "dit", tmp_path / "vae", check=False)
    assert wrong.stderr.startswith(MODEL_MISMATCH) and "expected a Wan DiT, got Wan-VAE (16 latent channels" in wrong.stderr
    wrong = run_probe("weights", "vae", tmp_path / "transformer", check=False)
    assert wrong.stderr.startswith(MODEL_MISMATCH) and "got Wan DiT t2v" in wrong.stderr
    assert "pipeline folder with transformer, vae" in json.loads(run_probe("weights", "info", tmp_path).stdout)["summary"]
    torch.save({"a": torch.zeros(3)}, tmp_path / "a.pth")
    assert "can run code" in json.loads(run_probe("weights", "info", tmp_path / "a.pth").stdout)["summary"]


def test_digest_tells_models_apart(dit, run_probe, tmp_path):
    dit.save_pretrained(tmp_path)
    first = run_probe("weights", "digest", tmp_path).stdout
    assert first == run_probe("weights", "digest", tmp_path).stdout
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    state["blocks.0.norm2.bias"][3] += 1
    save_file(state, path)
    assert run_probe("weights", "digest", tmp_path).stdout != first
