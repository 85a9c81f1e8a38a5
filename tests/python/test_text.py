# SPDX-License-Identifier: Apache-2.0
"""text against transformers (UMT5), sentencepiece (ids) and ftfy + html (prompt cleaning)."""

from __future__ import annotations

import html
import io
import json
import random
import re

import ftfy
import numpy as np
import pytest
import sentencepiece
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch
from transformers import UMT5Config, UMT5EncoderModel

SIZES = {
    "tiny": {"vocab_size": 256, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
    "ragged": {"vocab_size": 301, "d_model": 72, "d_kv": 20, "d_ff": 100, "num_layers": 3, "num_heads": 3},
    "wide": {"vocab_size": 999, "d_model": 256, "d_kv": 64, "d_ff": 640, "num_layers": 4, "num_heads": 4},
}


def random_umt5(size: str, seed: int = 3) -> UMT5EncoderModel:
    torch.manual_seed(seed)
    model = UMT5EncoderModel(UMT5Config(**SIZES[size])).eval().float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layer_norm" in name:
                parameter.normal_(1.0, 0.3)
            elif "relative_attention_bias" in name:
                parameter.normal_(0.0, 1.0)
            elif parameter.ndim == 2 and "shared" not in name and "embed_tokens" not in name:
                parameter.normal_(0.0, 0.7 * parameter.shape[1] ** -0.5)
            else:
                parameter.normal_(0.0, 1.0)
    return model


def save_model(model: UMT5EncoderModel, path, dtype=torch.float32, extra=None) -> None:
    tensors = {
        name: tensor.detach().to(dtype).contiguous().clone()
        for name, tensor in model.state_dict().items()
        if name != "encoder.embed_tokens.weight"
    }
    save_torch(tensors | (extra or {}), path)


def encode(run_probe, tmp_path, model_path, ids) -> np.ndarray:
    save_file({"ids": np.asarray(ids, np.int32)}, tmp_path / "ids")
    run_probe("text", "umt5", model_path, tmp_path / "ids", tmp_path / "rows")
    return load_file(tmp_path / "rows")["rows"]


@pytest.mark.parametrize("size", SIZES)
def test_umt5_against_transformers(run_probe, tmp_path, size):
    model = random_umt5(size)
    path = tmp_path / "umt5.safetensors"
    save_model(model, path)
    for tokens in [1, 7, 64, 200]:  # beyond 128 the last bucket is reached
        ids = torch.randint(0, SIZES[size]["vocab_size"], (1, tokens))
        padded = torch.cat([ids, torch.zeros(1, 9, dtype=ids.dtype)], dim=1)
        mask = (torch.arange(tokens + 9) < tokens).long()[None]
        with torch.no_grad():
            theirs = model(padded, attention_mask=mask).last_hidden_state[0, :tokens].numpy()
            exact = model.double()(ids).last_hidden_state[0].numpy()
        model.float()
        ours = encode(run_probe, tmp_path, path, ids[0])
        scale = np.abs(exact).max()
        assert np.abs(ours - theirs).max() <= 1e-4 * scale, (size, tokens)
        assert np.abs(ours - exact).max() <= max(2 * np.abs(theirs - exact).max(), 5e-6 * scale), (size, tokens)


def test_umt5_streams_bf16_weights(run_probe, tmp_path):
    model = random_umt5("tiny").bfloat16()
    save_model(model, tmp_path / "bf16.safetensors", torch.bfloat16)
    ids = torch.arange(40)[None]
    with torch.no_grad():
        theirs = model.float()(ids).last_hidden_state[0].numpy()
    ours = encode(run_probe, tmp_path, tmp_path / "bf16.safetensors", ids[0])
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()


def test_prompts_share_one_reading_of_the_weights(run_probe, tmp_path):
    """Bytes that the process reads, by the kernel's count; and the bits of a prompt are its own."""
    path = tmp_path / "umt5.safetensors"
    save_model(random_umt5("wide"), path)
    lengths, files = (3, 70, 31), []
    for n in lengths:
        files.append(tmp_path / f"ids{n}")
        save_file({"ids": np.arange(5, 5 + n, dtype=np.int32)}, files[-1])

    def run(*which):
        told = json.loads(run_probe("text", "prompts", path, tmp_path / "rows", *which).stdout)
        assert told["parts"] == [0.25, 0.5, 0.75, 1.0]
        return told["bytes"], load_file(tmp_path / "rows")

    together, rows = run(*files)
    alone = []
    for i, file in enumerate(files):
        count, one = run(file)
        alone.append(count)
        assert np.array_equal(one["rows.0"], rows[f"rows.{i}"])
    tokens = 4 * SIZES["wide"]["d_model"]  # bytes of a row of the embedding table
    fixed = [count - n * tokens for count, n in zip(alone, lengths, strict=True)]
    print(f"alone {alone}, together {together} bytes")
    assert max(fixed) > path.stat().st_size / 2
    assert together == pytest.approx(sum(lengths) * tokens + fixed[0], rel=0.01)


def test_three_namings_give_the_same_rows(run_probe, tmp_path):
    """Hugging Face's names, the original's, and a ComfyUI file with its prefix and the tokenizer inside."""
    from test_weights import original_umt5

    path = tmp_path / "umt5.safetensors"
    save_model(random_umt5("ragged"), path)
    state = load_file(path)
    rows = [encode(run_probe, tmp_path, path, range(90))]
    save_file({original_umt5(name): tensor for name, tensor in state.items()}, path)
    rows.append(encode(run_probe, tmp_path, path, range(90)))
    inside = {"spiece_model": np.frombuffer(train_tokenizer(), np.uint8)}
    save_file({"text_encoders.umt5xxl.transformer." + name: tensor for name, tensor in state.items()} | inside, path)
    rows.append(encode(run_probe, tmp_path, path, range(90)))
    assert np.array_equal(rows[0], rows[1]) and np.array_equal(rows[0], rows[2])


def test_umt5_refuses_what_does_not_fit(run_probe, tmp_path):
    model = random_umt5("tiny")
    path = tmp_path / "umt5.safetensors"
    save_model(model, path)
    save_file({"ids": np.array([5, 256], np.int32)}, tmp_path / "ids")
    done = run_probe("text", "umt5", path, tmp_path / "ids", tmp_path / "rows", check=False)
    assert done.returncode == 1
    assert "token id 256 is outside of the vocabulary of 256" in done.stderr
    with torch.no_grad():
        model.encoder.final_layer_norm.weight[3] = float("nan")
    save_model(model, path)
    save_file({"ids": np.array([5], np.int32)}, tmp_path / "ids")
    done = run_probe("text", "umt5", path, tmp_path / "ids", tmp_path / "rows", check=False)
    assert done.returncode == 1
    assert "NaN or infinity" in done.stderr


WORDS = (
    "a red ball bounces over the green meadow at sunset while snow falls in the city boat sea waves desert tree bird "
    "naïve café Straße déjà 一只红色的球 在 草地 上 跳 海浪 夜晚 星星 قطة تمشي على العشب الأخضر 🎈 🚗 красный шар летит кот ночь"
).split()


def train_tokenizer(**options) -> bytes:
    rng = random.Random(5)
    corpus = [" ".join(rng.choices(WORDS, k=rng.randint(3, 15))) for _ in range(1500)]
    model = io.BytesIO()
    settings = {"vocab_size": 220, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "hard_vocab_limit": False, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(corpus), model_writer=model, **(settings | options))
    return model.getvalue()


PROMPTS = [
    "",
    " ",
    "a red ball",
    "A RED  ball,\tbounces — over the “green” meadow…",
    "一只红色的球在草地上跳，夜晚有星星。",
    "قطة تمشي على العشب الأخضر",
    "🎈🚗👩‍👩‍👧‍👦 flags 🇩🇪 ½ ﬁ Ⅷ ㈱ ａｂｃ",
    "e\u0301 vs \u00e9; zero\u200bwidth; nul-free \x7f",
    "</s> <pad> <unk> ▁▁",
    "x" * 5000,
    " ".join(random.Random(1).choices(WORDS, k=3000)),
]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"byte_fallback": True, "vocab_size": 600},
        {"normalization_rule_name": "identity"},
        {"normalization_rule_name": "nfkc_cf"},
        {"remove_extra_whitespaces": False},
    ],
    ids=["nmt_nfkc", "byte_fallback", "identity", "casefold", "spaces"],
)
def test_ids_against_sentencepiece(run_probe, tmp_path, options):
    model = train_tokenizer(**options)
    (tmp_path / "spiece.model").write_bytes(model)
    (tmp_path / "prompts.json").write_text(json.dumps(PROMPTS))
    reference = sentencepiece.SentencePieceProcessor(model_proto=model)
    for limit in [1, 2, 16, 512, 100000]:
        done = run_probe("text", "tokens", tmp_path / "spiece.model", limit, tmp_path / "prompts.json")
        assert done.stderr == ""
        for prompt, got in zip(PROMPTS, json.loads(done.stdout), strict=True):
            whole = reference.encode(prompt)
            assert got["ids"] == [*whole[: limit - 1], 1]
            assert got["dropped"] == max(0, len(whole) - (limit - 1))


def test_damaged_tokenizers_are_refused_not_walked(run_probe, tmp_path):
    """Truncations and flipped bytes: an answer or a message, never a crash, and nothing on stderr but the message."""
    model = train_tokenizer()
    (tmp_path / "prompts.json").write_text(json.dumps(PROMPTS[:7]))
    rng = random.Random(9)
    variants = [model[: rng.randrange(len(model))] for _ in range(12)]
    for _ in range(40):
        damaged = bytearray(model)
        for _ in range(rng.choice([1, 4, 64])):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        variants.append(bytes(damaged))
    refused = 0
    for variant in [b"", b"\0", b"not a model", *variants]:
        (tmp_path / "spiece.model").write_bytes(variant)
        done = run_probe("text", "tokens", tmp_path / "spiece.model", 64, tmp_path / "prompts.json", check=False)
        assert done.returncode in (0, 1), (done.returncode, done.stderr)
        refused += done.returncode
        assert done.stderr == "" if done.returncode == 0 else "spiece.model" in done.stderr
    assert refused > 10


def wan_clean(text: str) -> str:
    """diffusers.pipelines.wan.pipeline_wan.prompt_clean"""
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return re.sub(r"\s+", " ", text).strip()


CLEANED = [
    "",
    "  \t\n ",
    "plain words",
    "  two\r\nlines\u2028and\u2029more \u3000 wide\u00a0space ",
    "“curly” ‘quotes’ and ‛odd‟ „ones",
    "ＦＵＬＬ　ｗｉｄｔｈ １２３！ ﾊﾝｶｸ",
    "ﬁne ﬂow oﬀer ﬅ Ĳssel ǆ",
    "e\u0301 A\u030a o\u0308\u0304 한글",
    "bell\x07 del\x7f bom\ufeff esc\x1b[31mred\x1b[0m end",
    "a &amp; b &lt;c&gt; &eacute; &#233; &#xE9; &hearts;",
    "&amp;amp;amp; &amp;lt;",
    "<b>bold</b> &amp; &eacute &copy2024 &notit; &amp",
    "&unknown; & && &; &# &#x; &#0; &#128; &#xD800; &#x110000; &#99999999999;",
    "&#8220;quoted&#8221; &rsquo;s &nbsp; x &hellip;",
    "emoji 👩‍👩‍👧‍👦 🇩🇪 ok",
    "一只红色的球，在草地上跳。",
    "قطة تمشي على العشب",
    "zero\u200bwidth \u200d joiner",
    "色调艳丽，过曝，静态，细节模糊不清，字幕",
]


def test_cleaning_against_ftfy(run_probe, tmp_path):
    (tmp_path / "prompts.json").write_text(json.dumps(CLEANED))
    ours = json.loads(run_probe("text", "clean", tmp_path / "prompts.json").stdout)
    assert ours == [wan_clean(text) for text in CLEANED]


def test_cleaning_random_text_against_ftfy(run_probe, tmp_path):
    """Random mixes of everything above; wrong-encoding repair, which is not ported, is switched off on ftfy's side."""
    rng = random.Random(4)
    pieces = ["&amp;", "&lt;", "&#39;", "<", " ", "\n", "\r\n", "é", "e\u0301", "“", "’", "ａ", "\u3000", "ﬁ", "\x07"]
    pieces += ["字", "🎈", "x", "y z", "&", ";", "#"]
    texts = ["".join(rng.choices(pieces, k=rng.randint(1, 30))) for _ in range(2000)]
    (tmp_path / "prompts.json").write_text(json.dumps(texts))
    ours = json.loads(run_probe("text", "clean", tmp_path / "prompts.json").stdout)
    config = ftfy.TextFixerConfig(fix_encoding=False)
    for text, got in zip(texts, ours, strict=True):
        fixed = html.unescape(html.unescape(ftfy.fix_text(text, config))).strip()
        assert got == re.sub(r"\s+", " ", fixed).strip(), repr(text)


def test_embedded_tokenizer_and_cache(run_probe, tmp_path):
    model = random_umt5("ragged")
    spiece = torch.frombuffer(bytearray(train_tokenizer()), dtype=torch.uint8)
    save_model(model, tmp_path / "umt5.safetensors", extra={"spiece_model": spiece})
    cache = tmp_path / "deep" / "cache"
    arguments = (tmp_path / "umt5.safetensors", "", cache)
    assert run_probe("text", "cached", *arguments, "a red ball", tmp_path / "a").stdout == "miss\n"
    assert run_probe("text", "cached", *arguments, " a  red ball ", tmp_path / "b").stdout == "hit\n"
    assert np.array_equal(load_file(tmp_path / "a")["rows"], load_file(tmp_path / "b")["rows"])
    assert run_probe("text", "cached", *arguments, "a blue ball", tmp_path / "c").stdout == "miss\n"
    entries = sorted(cache.iterdir())
    assert len(entries) == 2
    entries[0].write_bytes(entries[1].read_bytes())  # a collision of names must not give the other prompt's rows
    entries[1].write_bytes(entries[1].read_bytes()[:100])
    assert run_probe("text", "cached", *arguments, "a red ball", tmp_path / "d").stdout in ("miss\n", "hit\n")
    assert np.array_equal(load_file(tmp_path / "a")["rows"], load_file(tmp_path / "d")["rows"])
    assert run_probe("text", "cached", *arguments, "a blue ball", tmp_path / "e").stdout in ("miss\n", "hit\n")
    assert np.array_equal(load_file(tmp_path / "c")["rows"], load_file(tmp_path / "e")["rows"])


def test_tokenizer_beside_the_encoder(run_probe, tmp_path):
    folder = tmp_path / "text_encoder"
    folder.mkdir()
    save_model(random_umt5("ragged"), folder / "model.safetensors")
    arguments = (folder / "model.safetensors", "", "", "a red ball", tmp_path / "out")
    done = run_probe("text", "cached", *arguments, check=False)
    assert done.returncode == 1
    assert "no tokenizer" in done.stderr
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "spiece.model").write_bytes(train_tokenizer())
    first = run_probe("text", "cached", *arguments)
    assert first.stdout == "miss\n"
    assert run_probe("text", "cached", *arguments).stdout == "miss\n"  # no folder: no cache
