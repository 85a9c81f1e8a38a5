#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the seeds of fuzz_tokenizer into corpus/tokenizer/: prompts, and small models of every kind. Needs sentencepiece."""

from __future__ import annotations

import io
import random
import struct
import tempfile
from pathlib import Path

import sentencepiece

FOLDER = Path(__file__).parent / "corpus" / "tokenizer"
WORDS = "a red blue ball boat bounces over the green meadow sea at night café 红色 的 球 лес".split()
PROMPTS = {
    "plain": "a red ball bounces over the green meadow",
    "entities": "&amp;amp; &eacute &#233; &#xE9; &#0; &notit; <b> &#99999999999;",
    "marks": "\u201ccurly\u201d \uff21\u3000e\u0301 \ufb01 \x1b[31m \u200b 👩‍👧 🇩🇪",
}
BROKEN = b"\xff\xc0\xaf\xed\xa0\x80\xf4\x90\x80\x80 a\xe2\x82"


def train(**options: object) -> bytes:
    rng = random.Random(1)
    corpus = [" ".join(rng.choices(WORDS, k=8)) for _ in range(300)]
    model = io.BytesIO()
    settings = {"vocab_size": 48, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "hard_vocab_limit": False, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(corpus), model_writer=model, **(settings | options))
    return model.getvalue()


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as rules:
        rules.write("41\t61\nE9\t65 301\nFB01\t66 69\n")  # A -> a, é -> e + accent, ﬁ -> fi: a small trie
        rules.flush()
        models = {
            "identity": train(normalization_rule_name="identity"),
            "rules": train(normalization_rule_tsv=rules.name),
            "bpe": train(model_type="bpe", normalization_rule_name="identity"),
            "bytes": train(byte_fallback=True, vocab_size=330, normalization_rule_name="identity"),
        }
    prompts = {name: prompt.encode() for name, prompt in PROMPTS.items()} | {"broken": BROKEN}
    for name, prompt in prompts.items():
        (FOLDER / f"prompt_{name}").write_bytes(struct.pack("<H", len(prompt)) + prompt)
    for name, model in models.items():
        prompt = prompts["marks"]
        (FOLDER / f"model_{name}").write_bytes(struct.pack("<H", len(prompt)) + prompt + model)


if __name__ == "__main__":
    main()
