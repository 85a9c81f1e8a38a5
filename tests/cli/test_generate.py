# SPDX-License-Identifier: Apache-2.0
"""Clips end to end: every container, what is inside according to ffprobe, settings back out, and the same clip again."""

from __future__ import annotations

import json
import subprocess

import numpy
import pytest
from conftest import leftovers, probe_media

WIDTH, HEIGHT, FRAMES, FPS = 64, 48, 9, 8  # defaults in the tiny model's model.json


def decode(path) -> numpy.ndarray:
    """[F, H, W, 3] by ffmpeg."""
    raw = subprocess.run(
        ["ffmpeg", "-v", "error", "-i", str(path), "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"],
        capture_output=True,
        check=True,
        timeout=60,
    ).stdout
    return numpy.frombuffer(raw, numpy.uint8).reshape(-1, HEIGHT, WIDTH, 3)


@pytest.fixture(scope="module")
def clip(generate, tmp_path_factory):
    """One run that writes everything."""
    folder = tmp_path_factory.mktemp("clip")
    done = generate("-o", folder / "a.mp4", "-o", folder / "a.webm", "-o", folder / "a.gif", "-o", folder / "png", "--sheet",
                    folder / "sheet.png", "--report", folder / "report.json", "-o", folder / "named" / "f_%03d.png", "--quality", 5, "-s", 11)  # fmt: skip
    return folder, done


def test_nothing_else_is_left(clip):
    folder, _ = clip
    assert leftovers(folder) == ["a.gif", "a.mp4", "a.webm", "named", "png", "report.json", "sheet.png"]
    assert leftovers(folder / "png") == [f"{i:04d}.png" for i in range(FRAMES)]
    assert leftovers(folder / "named") == [f"f_{i:03d}.png" for i in range(FRAMES)]


@pytest.mark.parametrize(
    ("name", "codecs"), [("a.mp4", ("h264", "hevc", "av1", "mpeg4")), ("a.webm", ("vp9", "av1", "vp8")), ("a.gif", ("gif",))]
)
def test_containers(clip, name, codecs):
    media = probe_media(clip[0] / name)
    stream = media["streams"][0]
    assert stream["codec_name"] in codecs
    assert (stream["width"], stream["height"], int(stream["nb_read_frames"])) == (WIDTH, HEIGHT, FRAMES)
    assert abs(float(media["format"]["duration"]) - FRAMES / FPS) < 0.07
    if name != "a.gif":
        assert stream["pix_fmt"] == "yuv420p"
        assert (stream["color_space"], stream["color_transfer"], stream["color_primaries"]) == ("bt709",) * 3
        assert stream.get("color_range") == "tv"


def test_the_encoder_is_reported(clip):
    folder, done = clip
    outputs = {entry["path"].rsplit("/", 1)[-1]: entry["encoder"] for entry in json.loads((folder / "report.json").read_text())["outputs"]}
    assert set(outputs) == {"a.mp4", "a.webm", "a.gif", "png", "f_%03d.png", "sheet.png"}
    assert f"a.mp4 ({outputs['a.mp4']}" in done.stderr


def psnr(a, b) -> float:
    return 10 * numpy.log10(255**2 / numpy.mean((a.astype(float) - b.astype(float)) ** 2))


def luma(frames):
    """BT.709 luma of [..., 3]."""
    return frames.astype(float) @ [0.2126, 0.7152, 0.0722]


def test_pictures_agree_between_containers(clip):
    """PNG is exact; the others must show the same colours. Chroma subsampling of random pictures costs the most."""
    folder, _ = clip
    exact = decode(folder / "png" / "%04d.png")
    assert exact.shape == (FRAMES, HEIGHT, WIDTH, 3)
    assert len({frame.tobytes() for frame in exact}) == FRAMES and exact.std() > 1
    assert (decode(folder / "named" / "f_%03d.png") == exact).all()
    assert psnr(decode(folder / "a.gif"), exact) > 24
    for name in ("a.mp4", "a.webm"):
        shown = decode(folder / name)
        assert psnr(shown.mean(axis=(1, 2)), exact.mean(axis=(1, 2))) > 34, name  # mean colour of each frame
        assert psnr(luma(shown), luma(exact)) > 24, name  # at full size in every format; chroma is subsampled


def test_info_prints_the_settings_back(clip, sla2):
    folder, _ = clip
    for name in ("a.mp4", "a.webm", "a.gif", "png/0000.png", "sheet.png"):
        settings = json.loads(sla2("info", folder / name, "--json").stdout)["settings"]
        assert settings["prompt"] == "a red ball rises over the sea at sunset"
        assert (settings["seed"], settings["steps"], settings["width"]) == (11, 3, WIDTH)
        assert "checkpoint" not in settings and "threads" not in settings
    assert "seed               11" in sla2("info", folder / "a.mp4").stdout
    assert probe_media(folder / "a.mp4")["format"]["tags"]["title"] == "a red ball rises over the sea at sunset"


@pytest.mark.parametrize("source", ["a.mp4", "a.webm", "a.gif", "sheet.png", "report.json"])
def test_from_repeats_the_clip(clip, sla2, tmp_path, source):
    folder, _ = clip
    sla2("generate", "--from", folder / source, "-o", tmp_path / "png")
    for index in range(FRAMES):
        assert (tmp_path / "png" / f"{index:04d}.png").read_bytes() == (folder / "png" / f"{index:04d}.png").read_bytes()


def test_a_clip_says_everything_by_itself(generate, sla2, tmp_path):
    """Also what nobody set: a later version may have other defaults."""
    generate("-o", tmp_path / "a.gif")
    settings = json.loads(sla2("info", tmp_path / "a.gif", "--json").stdout)["settings"]
    assert settings["seed"] == 0 and settings["attention"] == "full" and settings["fps"] == FPS and settings["negative_prompt"]


def test_8_bit_linears(clip, generate, sla2, tmp_path):
    """A run in 8 bits shows nearly the same picture, and the report says which Linears were not in bytes."""
    generate("-o", tmp_path / "png", "--linear-bits", 8, "--report", tmp_path / "report.json", "-s", 11)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["settings"]["linear_bits"] in (8, "8")
    linears = report["linears"]
    assert linears["weight_bits"] == 8 and linears["activation_bits"] in (7, 8)
    assert any("VNNI" in note for note in report["fallbacks"]) == (linears["activation_bits"] == 7)
    assert {"patch_embedding", "time_projection.1", "head.head", "blocks.*.cross_attn.k"} <= set(linears["not_in_8_bits"])
    assert not any("ffn" in name or "self_attn" in name for name in linears["not_in_8_bits"])
    plain = json.loads((clip[0] / "report.json").read_text())
    assert plain["linears"] == {"weight_bits": 16, "activation_bits": 16, "not_in_8_bits": []}
    assert report["memory"]["planned_sample_bytes"] < plain["memory"]["planned_sample_bytes"]
    eight, sixteen = decode(tmp_path / "png" / "%04d.png"), decode(clip[0] / "png" / "%04d.png")
    assert not (eight == sixteen).all() and psnr(eight, sixteen) > 30
    assert "linear_bits" in sla2("generate", "-m", "x", "-p", "x", "--linear-bits", 4, "-o", tmp_path / "b.gif", code=2).stderr


def test_from_with_another_seed_differs(clip, sla2, tmp_path):
    sla2("generate", "--from", clip[0] / "a.mp4", "-s", 12, "-o", tmp_path / "png")
    assert not (decode(tmp_path / "png" / "%04d.png") == decode(clip[0] / "png" / "%04d.png")).all()


def test_json_events(generate, tmp_path):
    done = generate("-o", tmp_path / "a.mp4", "--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    progress = [event for event in events if event["type"] == "progress"]
    assert [event["step"] for event in progress if event["phase"] == "sample"][-1] == 3
    fractions = [event["fraction"] for event in progress]
    assert fractions == sorted(fractions)
    assert events[-1]["type"] == "done" and events[-1]["outputs"][0]["path"].endswith("a.mp4")
    assert done.stderr == ""


def test_quiet_says_nothing(generate, tmp_path):
    done = generate("-o", tmp_path / "a.mp4", "--quiet")
    assert (done.stdout, done.stderr) == ("", "")


def test_terminal_shows_a_bar(tool, tiny_model, tmp_path, environment):
    import os
    import pty

    try:
        master, slave = pty.openpty()
    except OSError as error:  # a bare container may have no /dev/pts
        pytest.skip(f"no terminal can be made here: {error}")
    with subprocess.Popen(
        [tool, "generate", "-m", tiny_model, "-p", "x", "--steps", "3", "-o", tmp_path / "a.mp4"], stderr=slave, env=environment
    ) as process:
        os.close(slave)
        text = b""
        try:
            while chunk := os.read(master, 4096):
                text += chunk
        except OSError:  # the other end closed
            pass
        assert process.wait(60) == 0
    os.close(master)
    assert b"sample 3/3" in text and b"[#" in text and b"\r" in text


def test_sla2_attention_reports_its_sparsity(generate, tmp_path):
    generate("-o", tmp_path / "a.gif", "--report", tmp_path / "r.json", "--attention", "sla2", "--sparsity", "0.5", "--width", 128, "--height",
             128, "--block-q", 32, "--block-k", 16)  # fmt: skip
    layers = json.loads((tmp_path / "r.json").read_text())["layers"]
    assert all(0.3 < layer["achieved_sparsity"] < 0.7 for layer in layers)


def test_the_report_says_which_products_ran(generate, environment, tmp_path):
    arguments = ("-o", tmp_path / "a.gif", "--report", tmp_path / "r.json", "--precision", "bf16", "--steps", "1")
    lower = {**environment, "SLA2_ISA": "avx2"}
    told = generate(*arguments, env=lower).stderr
    report = json.loads((tmp_path / "r.json").read_text())
    if report["machine"]["isa"] != "avx2":
        pytest.skip("this CPU has no AVX2")
    assert {(layer["attention_bits"], layer["attention_products"]) for layer in report["layers"]} == {(16, "fp32")}
    assert "lacks AVX-512 BF16" in told and any("lacks AVX-512 BF16" in note for note in report["fallbacks"])
    generate(*arguments, "--bits", "8", env=lower)
    report = json.loads((tmp_path / "r.json").read_text())
    assert {(layer["attention_bits"], layer["attention_products"]) for layer in report["layers"]} == {(8, "bf16")}


def test_info_on_weights(sla2, tiny_model):
    assert "Wan DiT" in sla2("info", tiny_model / "dit.safetensors").stdout
    assert json.loads(sla2("info", tiny_model / "vae.safetensors", "--json").stdout)["kind"] == "wan_vae"


def test_bench(sla2, tiny_model):
    report = json.loads(sla2("bench", "-m", tiny_model, "--steps", 2, "-n", 1, "--generate-only", "--json").stdout)
    assert report["generate"]["seconds"]["total"] > 0 and report["generate"]["step_seconds"] > 0


def test_bench_of_attention_tells_where_sparse_is_faster(sla2):
    command = ("bench", "--attention-only", "--threads", 1, "-n", 1, "--tokens", "512,256")
    report = json.loads(sla2(*command, "--json").stdout)["attention"]
    assert [(row["bits"], row["tokens"]) for row in report["rows"]] == [(16, 256), (16, 512), (8, 256), (8, 512)]
    assert report["threads"] == 1 and all(row["full"] > 0 and len(row["sla2"]) == 4 for row in report["rows"])
    for entry in report["faster_from"]:
        rows = [row for row in report["rows"] if row["bits"] == entry["bits"]]
        faster = [next(s["seconds"] for s in row["sla2"] if s["sparsity"] == entry["sparsity"]) < row["full"] for row in rows]
        assert entry["tokens"] == (256 if all(faster) else 512 if faster[1] else None)
    assert "faster from" in sla2(*command).stdout
