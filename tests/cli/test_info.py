# SPDX-License-Identifier: Apache-2.0
"""sla2 info and resume on files of every kind: what it is, in words, and what to do with it."""

from __future__ import annotations

import json

import pytest
from conftest import ROOT

NOT_FOUND, FORMAT, MISMATCH = 3, 6, 8


def test_a_model_folder(sla2, tiny_model):
    for path in (ROOT / "presets" / "models" / "small_world", ROOT / "presets" / "models" / "small_world" / "model.json"):
        text = sla2("info", path).stdout
        for word in ("model small-world", "Wan DiT", "Wan-VAE", "UMT5", "defaults", "digest"):
            assert word in text, text
    told = json.loads(sla2("info", tiny_model, "--json").stdout)
    assert told["kind"] == "model" and told["name"] == "tiny_random" and told["dit"]["layers"] == 2 and told["defaults"]["steps"] == 4


def test_a_broken_model_folder(sla2, tmp_path):
    (tmp_path / "model.json").write_text("{}")
    assert "model.json" in sla2("info", tmp_path, code=FORMAT).stderr
    assert "nothing" in sla2("info", tmp_path / "nothing" / "model.json", code=NOT_FOUND).stderr


def test_a_tokenizer(sla2, tiny_model):
    text = sla2("info", tiny_model / "spiece.model").stdout
    assert "sentencepiece tokenizer" in text and "UMT5" in text


@pytest.mark.parametrize(("name", "words"), [("README.md", "a text file"), ("presets/demo.json", "a JSON text")])
def test_texts(sla2, name, words):
    """Not "a header of 7020112785676443683 bytes"."""
    assert words in sla2("resume", ROOT / name, code=FORMAT).stderr
    if name.endswith(".md"):
        assert words in sla2("info", ROOT / name).stdout


def test_resume_of_what_is_no_checkpoint(sla2, generate, tiny_model, tmp_path):
    generate("-o", tmp_path / "a.mp4", "-o", tmp_path / "a.webm", "-o", tmp_path / "a.gif", "--sheet", tmp_path / "a.png")
    for name, what in (("a.mp4", "MP4"), ("a.webm", "WebM"), ("a.gif", "GIF"), ("a.png", "PNG")):
        said = sla2("resume", tmp_path / name, code=FORMAT).stderr
        assert what in said and "no checkpoint" in said and "--from" in said and "OUT.sla2ckpt" in said, said
    assert "not a checkpoint" in sla2("resume", tiny_model / "dit.safetensors", code=FORMAT).stderr


def test_a_clip_tells_how_it_was_made(sla2, generate, environment, tmp_path):
    generate(
        "-o",
        tmp_path / "a.gif",
        "--report",
        tmp_path / "r.json",
        "--precision",
        "fp32",
        "--sparsity",
        0.5,
        "--block-q",
        32,
        "--block-k",
        16,
    )
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["machine"]["precision"] == {"dit": "fp32", "vae": "fp32"} and "mt19937" in report["rng"]
    clip = json.loads(sla2("info", tmp_path / "a.gif", "--json").stdout)["report"]
    assert clip["machine"] == {key: report["machine"][key] for key in ("cpu", "isa", "precision")}
    assert clip["attention"]["achieved_sparsity"] == report["attention"]["achieved_sparsity"] > 0.3
    text = sla2("info", tmp_path / "a.gif").stdout
    for word in ("isa " + report["machine"]["isa"], "dit fp32", "achieved_sparsity", "mt19937"):
        assert word in text, text
    generate("-o", tmp_path / "b.gif", "--report", tmp_path / "r.json", "--precision", "bf16", "--vae-precision", "bf16")
    assert json.loads((tmp_path / "r.json").read_text())["machine"]["precision"] == {"dit": "bf16", "vae": "bf16"}
    generate("-o", tmp_path / "b.gif", "--report", tmp_path / "r.json")
    fast = "avx512_bf16" in report["machine"]["isa"]
    assert json.loads((tmp_path / "r.json").read_text())["machine"]["precision"]["dit"] == ("bf16" if fast else "fp32")
    said = sla2("generate", "--from", tmp_path / "a.gif", "-o", tmp_path / "c.gif").stderr
    assert "to the last bit" not in said and "WARNING" not in said
    said = sla2("generate", "--from", tmp_path / "a.gif", "-o", tmp_path / "c.gif", env={**environment, "SLA2_ISA": "scalar"}).stderr
    assert "to the last bit" in said and "here scalar" in said


def test_from_with_other_weights_is_told(sla2, generate, tmp_path):
    from make_tiny_model import make_tiny_model

    generate("-o", tmp_path / "a.gif", "--report", tmp_path / "r.json")
    other = make_tiny_model(tmp_path / "other", seed=1)
    for source in ("a.gif", "r.json"):
        said = sla2("generate", "--from", tmp_path / source, "-m", other, "-o", tmp_path / "b.gif").stderr
        for role in ("DiT", "VAE", "text encoder"):
            assert f"WARNING: --from {tmp_path / source}: it was made with a {role} of digest" in said, said
    assert "WARNING" not in sla2("generate", "--from", tmp_path / "a.gif", "-o", tmp_path / "b.gif").stderr


def test_a_preview_decoder_fits_nothing_here(sla2, tmp_path):
    from numpy import zeros
    from safetensors.numpy import save_file

    path = tmp_path / "taew2_1.safetensors"
    save_file({"decoder.1.weight": zeros((8, 16, 3, 3), "f"), "decoder.3.conv.0.weight": zeros((8, 8, 3, 3), "f")}, path)
    told = json.loads(sla2("info", path, "--json").stdout)
    assert told["kind"] == "taehv" and "nothing in this version" in told["fits"]
