# SPDX-License-Identifier: Apache-2.0
"""The VAE against diffusers' AutoencoderKLWan in fp32, every parameter random; real footage included."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
import skvideo
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file, save_file

CONFIGS = {
    "base8": dict(base_dim=8, dim_mult=[1, 2, 4, 4], num_res_blocks=2, temperal_downsample=[False, True, True]),
    "one_block": dict(base_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=1, temperal_downsample=[False, True, True]),
    "ragged": dict(base_dim=6, dim_mult=[1, 2, 4, 6], num_res_blocks=1, temperal_downsample=[True, True, False]),
    "wide_decoder": dict(
        base_dim=4, decoder_base_dim=12, dim_mult=[1, 2, 2], num_res_blocks=2, temperal_downsample=[True, True], scale_factor_spatial=4
    ),
}
LIMIT = 1e-4  # relative error of whole results, fp32


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Scales around one, small biases, convolutions that keep the size of what passes through."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("gamma"):
            parameter.data = 1 + 0.3 * noise
        elif name.endswith("bias"):
            parameter.data = 0.1 * noise
        else:
            fan_in = parameter[0].numel()
            parameter.data = noise / fan_in**0.5


def save(model: AutoencoderKLWan, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "diffusion_pytorch_model.safetensors"
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, path, metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKLWan", **dict(model.config)}))
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    made = {}

    def make(name: str):
        if name not in made:
            channels = 16
            mean = [0.1 * (i - 7) for i in range(channels)]
            std = [1.0 + 0.1 * i for i in range(channels)]
            model = AutoencoderKLWan(z_dim=channels, latents_mean=mean, latents_std=std, **CONFIGS[name]).eval()
            randomise(model, seed=len(made) + 1)
            made[name] = (model, save(model, tmp_path_factory.mktemp(name)))
        return made[name]

    return make


def statistics(model):
    mean = torch.tensor(model.config.latents_mean).view(1, -1, 1, 1, 1)
    std = torch.tensor(model.config.latents_std).view(1, -1, 1, 1, 1)
    return mean, std


def footage(name: str, frames: int, height: int, width: int) -> torch.Tensor:
    """[3,F,H,W] in [-1,1] from a clip inside scikit-video."""
    path = Path(skvideo.__file__).parent / "datasets" / "data" / name
    images = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            images.append(frame.reformat(width=width, height=height, format="rgb24").to_ndarray())
            if len(images) == frames:
                break
    assert len(images) == frames
    return torch.from_numpy(np.stack(images)).permute(3, 0, 1, 2).float() / 127.5 - 1


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


def ours_decode(run_probe, weights, latent, folder, *options, precision="f32"):
    save_file({"latent": latent.contiguous()}, folder / "latent.safetensors")
    run_probe("vae", "decode", weights, folder / "latent.safetensors", folder / "out.safetensors", "--precision", precision, *options)
    return load_file(folder / "out.safetensors")


def ours_encode(run_probe, weights, video, folder, *options):
    save_file({"video": video.contiguous()}, folder / "video.safetensors")
    run_probe("vae", "encode", weights, folder / "video.safetensors", folder / "out.safetensors", *options)
    return load_file(folder / "out.safetensors")["latent"]


@torch.no_grad()
@pytest.mark.parametrize(
    "name,latent_frames,height,width",
    [
        ("base8", 1, 6, 10),
        ("base8", 2, 6, 10),
        ("base8", 3, 6, 10),
        ("base8", 4, 3, 5),
        ("base8", 5, 6, 10),
        ("one_block", 3, 4, 6),
        ("ragged", 4, 3, 5),
        ("wide_decoder", 3, 6, 7),
    ],
)
def test_decode(models, run_probe, tmp_path, name, latent_frames, height, width):
    model, weights = models(name)
    latent = torch.randn(1, 16, latent_frames, height, width, generator=torch.Generator().manual_seed(7))
    mean, std = statistics(model)
    theirs = model.decode(latent * std + mean).sample[0]
    inside = float((theirs.abs() < 1).float().mean())
    result = ours_decode(run_probe, weights, latent[0], tmp_path)
    ours = result["frames"].permute(1, 0, 2, 3)
    factor = 4
    assert result["chunks"].tolist() == [1] + [factor] * (latent_frames - 1)
    error = relative(ours, theirs)
    print(f"{name} decode, {theirs.shape[1]} frames: relative error {error:.2e}, {inside:.0%} not clamped")
    assert inside > 0.5  # the clamp hides errors
    assert error <= LIMIT
    expected = ((ours / 2 + 0.5) * 255).round().clamp(0, 255).permute(1, 2, 3, 0)
    assert (result["rgb"].float() - expected).abs().max() <= 1  # ties may round either way
    assert (result["rgb"].float() != expected).float().mean() < 1e-3


@torch.no_grad()
@pytest.mark.parametrize(
    "name,frames,height,width",
    [
        ("base8", 1, 48, 80),
        ("base8", 5, 48, 80),
        ("base8", 9, 48, 80),
        ("base8", 13, 24, 40),
        ("base8", 17, 48, 80),
        ("one_block", 9, 32, 48),
        ("ragged", 13, 24, 40),
        ("wide_decoder", 9, 24, 28),
    ],
)
def test_encode(models, run_probe, tmp_path, name, frames, height, width):
    model, weights = models(name)
    video = torch.randn(1, 3, frames, height, width, generator=torch.Generator().manual_seed(8)).clamp(-1, 1)
    mean, std = statistics(model)
    theirs = ((model.encode(video).latent_dist.mode() - mean) / std)[0]
    error = relative(ours_encode(run_probe, weights, video[0], tmp_path), theirs)
    print(f"{name} encode, {frames} frames: relative error {error:.2e}")
    assert error <= LIMIT


@torch.no_grad()
@pytest.mark.parametrize("clip,frames", [("bikes.mp4", 17), ("carphone_pristine.mp4", 9), ("bigbuckbunny.mp4", 13)])
def test_real_footage_there_and_back(models, run_probe, tmp_path, clip, frames):
    model, weights = models("base8")
    video = footage(clip, frames, 64, 112)
    mean, std = statistics(model)
    theirs = ((model.encode(video[None]).latent_dist.mode() - mean) / std)[0]
    ours = ours_encode(run_probe, weights, video, tmp_path)
    decoded = model.decode(theirs[None] * std + mean).sample[0]
    ours_decoded = ours_decode(run_probe, weights, theirs, tmp_path)["frames"].permute(1, 0, 2, 3)
    errors = relative(ours, theirs), relative(ours_decoded, decoded)
    print(f"{clip}: encode {errors[0]:.2e}, decode {errors[1]:.2e}")
    assert max(errors) <= LIMIT


@torch.no_grad()
def test_tiles_equal_diffusers_tiles_off_the_corners_and_the_whole_frame_nearby(models, run_probe, tmp_path):
    model, weights = models("base8")
    latent = torch.randn(1, 16, 2, 14, 16, generator=torch.Generator().manual_seed(9))
    mean, std = statistics(model)
    z = latent * std + mean
    whole = model.decode(z).sample[0]
    exact = ours_decode(run_probe, weights, latent[0], tmp_path)["frames"].permute(1, 0, 2, 3)
    assert relative(exact, whole) <= LIMIT
    tiled = ours_decode(run_probe, weights, latent[0], tmp_path, "--tile", 64, "--overlap", 16)["frames"].permute(1, 0, 2, 3)
    model.enable_tiling(tile_sample_min_height=64, tile_sample_min_width=64, tile_sample_stride_height=48, tile_sample_stride_width=48)
    theirs = model.decode(z).sample[0]
    model.disable_tiling()
    near = relative(tiled, theirs)
    print(
        f"tiled: {near:.2e} from diffusers' tiles, {relative(tiled, whole):.2e} from the whole frame "
        f"(diffusers' tiles: {relative(theirs, whole):.2e})"
    )
    # Where no corner of four tiles and no superfluous last tile of diffusers meets, both blends are the same formula.
    assert relative(tiled[..., :48, :48], theirs[..., :48, :48]) <= LIMIT
    assert relative(tiled, whole) <= 1.1 * relative(theirs, whole)


@torch.no_grad()
def test_bf16_products_err_no_more_than_torchs(models, run_probe, tmp_path, monkeypatch):
    """With fp32 products bf16 means rounded weights; on a CPU with bf16 products the sources of products are rounded too."""
    model, weights = models("base8")
    latent = torch.randn(1, 16, 2, 4, 6, generator=torch.Generator().manual_seed(10))
    mean, std = statistics(model)
    whole = model.decode(latent * std + mean).sample[0]
    state = {k: v.clone() for k, v in model.state_dict().items()}
    model.load_state_dict({k: v.bfloat16().float() for k, v in state.items()})
    rounded = model.decode(latent * std + mean).sample[0]
    model.load_state_dict(state)
    bf16 = AutoencoderKLWan.from_config(model.config).eval()
    bf16.load_state_dict(state)
    theirs = bf16.bfloat16().decode((latent * std + mean).bfloat16()).sample[0].float()

    def ours():
        return ours_decode(run_probe, weights, latent[0], tmp_path, precision="bf16")["frames"].permute(1, 0, 2, 3)

    best = ours()
    print(f"bf16: ours {relative(best, whole):.2e}, torch {relative(theirs, whole):.2e} from fp32")
    assert relative(best, whole) <= 2 * relative(theirs, whole)
    monkeypatch.setenv("SLA2_ISA", "avx2")
    lowered = ours()
    assert relative(lowered, rounded) <= 1e-3
    assert relative(lowered, whole) <= 2 * relative(theirs, whole)


@torch.no_grad()
def test_bf16_encoding_errs_no_more_than_torchs(models, run_probe, tmp_path):
    model, weights = models("base8")
    video = torch.randn(1, 3, 9, 40, 56, generator=torch.Generator().manual_seed(12)).clamp(-1, 1)
    mean, std = statistics(model)
    whole = ((model.encode(video).latent_dist.mode() - mean) / std)[0]
    bf16 = AutoencoderKLWan.from_config(model.config).eval()
    bf16.load_state_dict(model.state_dict())
    theirs = ((bf16.bfloat16().encode(video.bfloat16()).latent_dist.mode().float() - mean) / std)[0]
    ours = ours_encode(run_probe, weights, video[0], tmp_path, "--precision", "bf16")
    print(f"bf16 encode: ours {relative(ours, whole):.2e}, torch {relative(theirs, whole):.2e} from fp32")
    assert relative(ours, whole) <= 2 * relative(theirs, whole)


def test_auto_is_bf16_where_the_cpu_is_fast_at_it(models, run_probe, tmp_path, monkeypatch):
    _, weights = models("base8")
    latent = torch.randn(16, 2, 4, 6, generator=torch.Generator().manual_seed(13))

    def decoded(precision):
        return ours_decode(run_probe, weights, latent, tmp_path, precision=precision)["frames"]

    fast = "avx512_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    assert torch.equal(decoded("auto"), decoded("bf16" if fast else "f32"))
    video = torch.randn(3, 5, 32, 48, generator=torch.Generator().manual_seed(14)).clamp(-1, 1)
    encoded = [ours_encode(run_probe, weights, video, tmp_path, "--precision", name) for name in ("auto", "f32", "bf16")]
    assert torch.equal(encoded[0], encoded[1]) and not torch.equal(encoded[0], encoded[2])
    monkeypatch.setenv("SLA2_ISA", "avx2")
    assert torch.equal(decoded("auto"), decoded("f32")) and not torch.equal(decoded("auto"), decoded("bf16"))


def test_three_namings_give_the_same_frames(models, run_probe, tmp_path):
    """Names of the original file by diffusers' own converter, read backwards."""
    from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

    model, weights = models("base8")
    state = model.state_dict()
    run_probe("weights", "f32", weights, tmp_path / "names.safetensors")
    originals = {name: name for name in load_file(tmp_path / "names.safetensors")}
    back = convert_wan_vae_to_diffusers(dict(originals))
    assert sorted(back) == sorted(state)
    latent = torch.randn(16, 3, 4, 6, generator=torch.Generator().manual_seed(15))
    video = torch.randn(3, 5, 32, 48, generator=torch.Generator().manual_seed(16)).clamp(-1, 1)
    config = {"config": json.dumps({"_class_name": "AutoencoderKLWan", **dict(model.config)})}
    frames, latents = [], []
    for prefix in ("", "first_stage_model.", None):
        named = state if prefix is None else {prefix + original: state[name] for name, original in back.items()}
        path = tmp_path / "named.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in named.items()}, path, metadata=config)
        frames.append(ours_decode(run_probe, path, latent, tmp_path)["frames"])
        latents.append(ours_encode(run_probe, path, video, tmp_path))
    assert all(torch.equal(frames[0], other) for other in frames[1:])
    assert all(torch.equal(latents[0], other) for other in latents[1:])
    assert torch.equal(frames[0], ours_decode(run_probe, weights, latent, tmp_path)["frames"])


@pytest.mark.parametrize("precision", ["f32", "bf16"])
@pytest.mark.parametrize("tile", [0, 256])
def test_plan_is_what_is_used(run_probe, tmp_path, precision, tile):
    """Planned bytes against the growth of the process, weights included."""
    config = dict(z_dim=16, base_dim=32, dim_mult=[1, 2, 4, 4], num_res_blocks=1, temperal_downsample=[False, True, True])
    model = AutoencoderKLWan(**config)
    size = ("--height", 320, "--width", 384, "--frames", 5)
    done = run_probe("vae", "bench", save(model, tmp_path), "--precision", precision, "--tile", tile, *size)
    result = json.loads(done.stdout)
    assert result["plan_bytes"] == pytest.approx(result["used_bytes"], rel=0.10), result


def test_threads_do_not_change_a_bit(models, run_probe, tmp_path):
    _, weights = models("base8")
    latent = torch.randn(16, 3, 7, 9, generator=torch.Generator().manual_seed(11))
    results = [ours_decode(run_probe, weights, latent, tmp_path, "--threads", n)["frames"] for n in (1, 2, 3)]
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_wrong_inputs_are_refused_with_the_remedy(models, run_probe, tmp_path):
    _, weights = models("base8")

    def refused(command: str, name: str, tensor: torch.Tensor, *options) -> str:
        save_file({name: tensor}, tmp_path / "in.safetensors")
        done = run_probe("vae", command, weights, tmp_path / "in.safetensors", tmp_path / "out.safetensors", *options, check=False)
        assert done.returncode == 1
        return done.stderr

    assert "4k+1" in refused("encode", "video", torch.zeros(3, 6, 16, 16))
    assert "multiples of 8" in refused("encode", "video", torch.zeros(3, 5, 16, 20))
    assert "16" in refused("decode", "latent", torch.zeros(12, 1, 2, 2))
    assert "half the tile" in refused("decode", "latent", torch.zeros(16, 1, 8, 8), "--tile", 32, "--overlap", 24)
    assert "NaN" in refused("decode", "latent", torch.full((16, 1, 2, 2), float("nan")))
    assert "cancelled" in refused("decode", "latent", torch.zeros(16, 5, 2, 2), "--cancel-after", 2)
    assert not (tmp_path / "out.safetensors").exists()
