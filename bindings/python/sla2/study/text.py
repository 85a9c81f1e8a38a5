# SPDX-License-Identifier: Apache-2.0
"""The text side: a sentencepiece model and a two-layer UMT5 encoder trained to understand captions.

The encoder learns to name all six attributes from every one of its output rows, so that whichever
rows the diffusion model attends to, the whole caption is there to be read. The heads are thrown
away and the encoder is frozen afterwards.
"""

from __future__ import annotations

import argparse
import io
import json
import string
import time
from pathlib import Path

import numpy as np
import sentencepiece
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import UMT5Config, UMT5EncoderModel

from . import world
from .optim import MuonAdamW, save, schedule

VOCAB, DIM, TEXT_LEN, PAD, EOS = 512, 128, 64, 0, 1


def tokenizer_model(seed: int = 0) -> bytes:
    """Train the sentencepiece unigram model on captions and return its serialised bytes."""
    rng = np.random.default_rng(seed)
    lines = [world.caption(world.combination(int(i)), int(i)) for i in rng.integers(0, world.COMBINATIONS, 6000)]
    words = sorted({w for line in lines for w in line.replace(",", " ").split()})
    lines += [" ".join(rng.permutation(words)) for _ in range(50)]
    lines += [" ".join(rng.permutation(list(string.ascii_lowercase + string.digits + string.punctuation))) for _ in range(200)]
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=out,
        model_type="unigram",
        vocab_size=VOCAB,
        character_coverage=1.0,
        byte_fallback=True,
        normalization_rule_name="nmt_nfkc_cf",
        pad_id=PAD,
        eos_id=EOS,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return out.getvalue()


def build() -> UMT5EncoderModel:
    """Return an untrained encoder: rows of 128 numbers, about 0.4 million weights."""
    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=VOCAB,
            d_model=DIM,
            d_kv=32,
            d_ff=256,
            num_layers=2,
            num_heads=4,
            pad_token_id=PAD,
            eos_token_id=EOS,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
        )
    )


def tokenize(spiece: sentencepiece.SentencePieceProcessor, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Return ids [b, n] padded with ``PAD`` and the mask [b, n] of real tokens (</s> included)."""
    rows = [spiece.encode(" ".join(t.split()))[: TEXT_LEN - 1] + [EOS] for t in texts]
    longest = max(map(len, rows))
    ids = torch.tensor([r + [PAD] * (longest - len(r)) for r in rows])
    lengths = torch.tensor([len(r) for r in rows])
    return ids, torch.arange(longest)[None] < lengths[:, None]


class Encoder:
    """The frozen text encoder: captions in, the diffusion model's context out."""

    def __init__(self, path: str | Path) -> None:
        state = torch.load(path, weights_only=False)
        self.spiece_bytes: bytes = state["spiece"]
        self.spiece = sentencepiece.SentencePieceProcessor(model_proto=self.spiece_bytes)
        self.model = build().eval().requires_grad_(False)
        self.model.load_state_dict(state["model"])

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> Tensor:
        """Return [b, TEXT_LEN, DIM]; rows past a text's last token are zero, as in Wan."""
        ids, mask = tokenize(self.spiece, texts)
        rows = self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return F.pad(rows * mask[..., None], (0, 0, 0, TEXT_LEN - ids.shape[1]))


class Heads(nn.Module):
    """One linear classifier per attribute on every row."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({k: nn.Linear(DIM, len(v)) for k, v in world.ATTRIBUTES.items()})

    def forward(self, rows: Tensor) -> list[Tensor]:
        """Return logits [b, n, classes] per attribute."""
        return [head(rows) for head in self.heads.values()]


def labels(scene: world.Scene) -> list[int]:
    """Return the index of each attribute's value."""
    return [names.index(value) for names, value in zip(world.ATTRIBUTES.values(), scene)]


def train(args: argparse.Namespace) -> None:
    """Train tokenizer and encoder from scratch and report held-out accuracy."""
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    proto = tokenizer_model(args.seed)
    spiece = sentencepiece.SentencePieceProcessor(model_proto=proto)
    model, heads = build(), Heads()
    with torch.no_grad():
        model.shared.weight.normal_(0, 1.0)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "shared" not in n and "embed" not in n and "bias" not in n]
    chosen = {id(p) for p in matrices}
    others = [p for p in (*model.parameters(), *heads.parameters()) if id(p) not in chosen]
    opt = MuonAdamW(matrices, others, lr=args.lr)
    start = time.time()
    for step in range(args.steps):
        opt.set_rate(args.lr * schedule(step / args.steps, step))
        scenes = [world.split("train")[i] for i in rng.integers(0, len(world.split("train")), args.batch)]
        ids, mask = tokenize(spiece, [world.caption(s, int(rng.integers(1 << 30))) for s in scenes])
        target = torch.tensor([labels(s) for s in scenes])
        rows = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        loss = sum(F.cross_entropy(out[mask], target[:, i, None].expand_as(mask)[mask]) for i, out in enumerate(heads(rows)))
        opt.zero_grad(set_to_none=True)
        loss.backward()
        opt.step()
        if (step + 1) % 50 == 0:
            print(f"step {step + 1} loss {loss.item():.4f} s {time.time() - start:.0f}", flush=True)
    scenes = world.split("test")
    ids, mask = tokenize(spiece, [world.caption(s, 1_000_000 + i) for i, s in enumerate(scenes)])
    target = torch.tensor([labels(s) for s in scenes])
    with torch.no_grad():
        out = heads(model(input_ids=ids, attention_mask=mask.long()).last_hidden_state)
    report = {
        name: round((o.argmax(-1) == target[:, i, None])[mask].float().mean().item(), 4)
        for i, (name, o) in enumerate(zip(world.ATTRIBUTES, out))
    }
    report["longest_caption_tokens"] = int(mask.sum(1).max())
    print(json.dumps({"text_held_out_row_accuracy": report}))
    save(Path(args.work) / "text.pt", {"model": model.state_dict(), "spiece": proto, "report": report})


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", default="build/study", help="folder of checkpoints")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train(args)


if __name__ == "__main__":
    main()
