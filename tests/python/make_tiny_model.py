# SPDX-License-Identifier: Apache-2.0
"""A whole Wan2.1 text-to-video model with random weights, small enough to run in a second: a folder with model.json,
DiT, VAE, UMT5 encoder (all in diffusers / transformers classes) and a sentencepiece model trained here.

    python make_tiny_model.py FOLDER [--seed 0]

All parameters are random, norms and modulation too, so that nothing hides behind ones and zeros.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

TEXT_DIM = 32
LATENT_CHANNELS = 16
VOCABULARY = 380


def train_tokenizer() -> bytes:
    """A unigram model with T5's special ids and UMT5's byte fallback, from captions made of a small grammar."""
    import sentencepiece

    captions = [
        f"a {colour} {thing} {motion} {place} {time}"
        for colour in ("red", "green", "blue", "yellow", "white")
        for thing in ("ball", "balloon", "boat", "bird", "tree")
        for motion in ("rises over", "falls on", "moves left in", "rests by", "bounces in")
        for place in ("the sea", "the meadow", "the desert", "the city")
        for time in ("by day", "at sunset", "at night, snow")
    ]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(captions),
        model_writer=model,
        vocab_size=VOCABULARY,
        model_type="unigram",
        byte_fallback=True,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def randomise(module, generator, scale: float) -> None:
    """Scales around one, everything else around zero."""
    import torch

    with torch.no_grad():
        for name, parameter in module.named_parameters():
            last = name.rsplit(".", 1)[-1]
            noise = torch.randn(parameter.shape, generator=generator)
            if last == "gamma" or (last == "weight" and (parameter.ndim == 1 or "norm" in name)):
                parameter.copy_(1 + 0.3 * noise)
            elif parameter.ndim <= 1:
                parameter.copy_(0.1 * noise)
            else:
                fan_in = max(1, parameter[0].numel())
                parameter.copy_(scale * noise / fan_in**0.5)


def save(module, path: Path, config: dict, drop: tuple[str, ...] = ()) -> None:
    from safetensors.torch import save_file

    state = {name: value.contiguous() for name, value in module.state_dict().items() if name not in drop}
    save_file(state, str(path), metadata={"format": "pt", "config": json.dumps(config)})


def make_tiny_model(folder: Path, seed: int = 0) -> Path:
    import torch
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    from transformers import UMT5Config, UMT5EncoderModel

    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)

    dit_config = {
        "patch_size": (1, 2, 2),
        "num_attention_heads": 2,
        "attention_head_dim": 32,
        "in_channels": LATENT_CHANNELS,
        "out_channels": LATENT_CHANNELS,
        "text_dim": TEXT_DIM,
        "freq_dim": 32,
        "ffn_dim": 96,
        "num_layers": 2,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "eps": 1e-6,
        "rope_max_seq_len": 1024,
    }
    dit = WanTransformer3DModel(**dit_config)
    randomise(dit, generator, 1.0)
    save(dit, folder / "dit.safetensors", {"_class_name": "WanTransformer3DModel", **dit_config, "patch_size": [1, 2, 2]})

    vae_config = {
        "base_dim": 8,
        "z_dim": LATENT_CHANNELS,
        "dim_mult": [1, 2, 4, 4],
        "num_res_blocks": 1,
        "attn_scales": [],
        "temperal_downsample": [False, True, True],
        "latents_mean": [round(0.1 * (i - 7.5), 3) for i in range(LATENT_CHANNELS)],
        "latents_std": [round(1 + 0.05 * i, 3) for i in range(LATENT_CHANNELS)],
    }
    vae = AutoencoderKLWan(**vae_config)
    randomise(vae, generator, 1.0)
    save(vae, folder / "vae.safetensors", {"_class_name": "AutoencoderKLWan", **vae_config})

    spiece = train_tokenizer()
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_proto=spiece).vocab_size()
    encoder_config = UMT5Config(
        vocab_size=pieces,
        d_model=TEXT_DIM,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        relative_attention_num_buckets=32,
        relative_attention_max_distance=128,
        dropout_rate=0.0,
    )
    encoder = UMT5EncoderModel(encoder_config)
    randomise(encoder, generator, 1.0)
    drop = tuple(name for name in encoder.state_dict() if name.endswith("embed_tokens.weight"))
    save(encoder, folder / "text_encoder.safetensors", json.loads(encoder_config.to_json_string(use_diff=False)), drop)
    (folder / "spiece.model").write_bytes(spiece)

    (folder / "model.json").write_text(
        json.dumps(
            {
                "format": "sla2.model",
                "version": 1,
                "name": "tiny_random",
                "family": "wan2.1",
                "dit": "dit.safetensors",
                "vae": "vae.safetensors",
                "text_encoder": "text_encoder.safetensors",
                "defaults": {
                    "width": 64,
                    "height": 48,
                    "frames": 9,
                    "fps": 8,
                    "steps": 4,
                    "cfg_scale": 3.0,
                    "shift": 3.0,
                    "sampler": "unipc",
                    "min_tokens": 0,
                },
            },
            indent=2,
        )
        + "\n"
    )
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(make_tiny_model(arguments.folder, arguments.seed))
