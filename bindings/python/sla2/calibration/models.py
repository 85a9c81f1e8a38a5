# SPDX-License-Identifier: Apache-2.0
"""Models that the command runs: a diffusers folder of WanPipeline, or a model folder of sla2; both as a WanPipeline fed with rows of text."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from sla2 import _safetensors
from sla2.errors import FileFormatError, FileMissingError, ModelMismatchError

_PAD, _EOS = 0, 1


@dataclass
class Model:
    """A pipeline without VAE and text encoder, the rows of its prompts, and what it runs with where nobody says."""

    pipeline: Any
    transformer: nn.Module
    rows: dict[str, Tensor]
    defaults: dict[str, Any]
    name: str

    def run(self, prompt: str, seed: int, **settings: Any) -> None:
        """Sample one prompt; the result is dropped."""
        options = {**self.defaults, **{name: value for name, value in settings.items() if value is not None}}
        with torch.no_grad():
            self.pipeline(
                prompt_embeds=self.rows[prompt],
                negative_prompt_embeds=self.rows[""],
                generator=torch.Generator().manual_seed(seed),
                output_type="latent",
                max_sequence_length=self.rows[prompt].shape[1],
                **options,
            )


def load(folder: str | Path, prompts: list[str], *, dtype: torch.dtype, device: str = "cpu", part: str = "transformer") -> Model:
    """Load a folder and encode the prompts; the text encoder is dropped afterwards.

    Raises FileMissingError, FileFormatError, ModelMismatchError: what it is, what was expected.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileMissingError(f"{folder}: there is no such folder; expected a diffusers folder of Wan2.1, or one with model.json")
    if (folder / "model.json").is_file():
        model = _load_own(folder, prompts)
    elif (folder / "model_index.json").is_file():
        model = _load_diffusers(folder, prompts, dtype, part)
    else:
        raise FileFormatError(
            f"{folder}: holds neither model_index.json nor model.json; expected a diffusers folder, or one with model.json"
        )
    model.pipeline.to(device)
    model.pipeline.set_progress_bar_config(disable=True)
    model.rows = {prompt: rows.to(device) for prompt, rows in model.rows.items()}
    return model


def _load_diffusers(folder: Path, prompts: list[str], dtype: torch.dtype, part: str) -> Model:
    import diffusers

    kind = json.loads((folder / "model_index.json").read_text(encoding="utf-8")).get("_class_name")
    if kind != "WanPipeline":
        raise ModelMismatchError(
            f"{folder}: holds a {kind}; the command runs WanPipeline (text to video); for others call sla2.calibration.calibrate(transformer, run)"
        )
    try:
        pipeline = cast(Any, diffusers.WanPipeline).from_pretrained(str(folder), vae=None, torch_dtype=dtype, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise FileFormatError(f"{folder}: does not load: {' '.join(str(error).split())[:400]}") from error
    transformer = getattr(pipeline, part, None)
    if not isinstance(transformer, nn.Module):
        raise ModelMismatchError(f"{folder}: has no {part}; this model has one transformer: leave --part out")
    with torch.no_grad():
        rows = {prompt: pipeline.encode_prompt(prompt, do_classifier_free_guidance=False)[0] for prompt in {*prompts, ""}}
    pipeline.text_encoder = pipeline.tokenizer = None
    return Model(pipeline, transformer, rows, {}, folder.name)


def _load_own(folder: Path, prompts: list[str]) -> Model:
    import diffusers

    from sla2.training import models

    described = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    transformer = models.load(folder)
    config = json.loads(_safetensors.TensorFile(folder / described["dit"]).metadata.get("config", "{}"))
    given = described.get("defaults", {})
    pipeline = cast(Any, diffusers.WanPipeline)(
        tokenizer=None,
        text_encoder=None,
        vae=None,
        transformer=transformer,
        scheduler=cast(Any, diffusers.FlowMatchEulerDiscreteScheduler)(shift=float(given.get("shift", 5.0))),
    )
    defaults = {ours: given[theirs] for ours, theirs in _SETTINGS.items() if theirs in given}
    rows = _encode(
        folder, described["text_encoder"], sorted({*prompts, given.get("negative_prompt", "")}), int(config.get("text_len", 512))
    )
    rows[""] = rows[given.get("negative_prompt", "")]
    return Model(pipeline, transformer, rows, defaults, described.get("name", folder.name))


_SETTINGS = {"num_frames": "frames", "height": "height", "width": "width", "guidance_scale": "cfg_scale"}


def _encode(folder: Path, name: str, prompts: list[str], text_len: int) -> dict[str, Tensor]:
    """Rows [1, text_len, D] of each prompt, zeros past its end: the tokenizer lies in the encoder's file or beside it."""
    import sentencepiece
    from transformers import UMT5Config, UMT5EncoderModel

    file = _safetensors.TensorFile(folder / name)
    if "config" not in file.metadata:
        raise FileFormatError(f"{file.path}: metadata lacks config; expected a text encoder as `sla2` reads it")
    encoder: Any = UMT5EncoderModel(UMT5Config(**json.loads(file.metadata["config"])))
    encoder.eval()
    state = {tensor: torch.from_numpy(file.read(tensor)) for tensor in file.shapes}
    inside = state.pop("spiece_model", None)
    spiece = (folder / "spiece.model").read_bytes() if inside is None else inside.numpy().tobytes()
    state["encoder.embed_tokens.weight"] = state["shared.weight"]
    encoder.load_state_dict(state)
    pieces = sentencepiece.SentencePieceProcessor(model_proto=spiece)
    rows = {}
    with torch.no_grad():
        for prompt in prompts:
            ids = torch.tensor([[*pieces.encode(" ".join(prompt.split()))[: text_len - 1], _EOS]])
            out = encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
            rows[prompt] = torch.nn.functional.pad(out, (0, 0, 0, text_len - ids.shape[1]), value=float(_PAD))
    return rows
