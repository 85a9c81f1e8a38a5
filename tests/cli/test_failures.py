# SPDX-License-Identifier: Apache-2.0
"""Each kind of trouble: its own exit code, one clear message with the remedy, and nothing under the final name."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import struct
import subprocess

import pytest

USAGE, NOT_FOUND, READ, WRITE, FORMAT, MEMORY, MISMATCH, UNSUPPORTED, NUMERIC = 2, 3, 4, 5, 6, 7, 8, 9, 10


@pytest.fixture()
def broken_model(tiny_model, tmp_path):
    """A copy of the tiny model to damage."""
    return shutil.copytree(tiny_model, tmp_path / "broken")


@pytest.fixture()
def out(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def edit_tensor(path, name: str, change) -> None:
    """Change one tensor's bytes in place: change(bytearray)."""
    data = bytearray(path.read_bytes())
    header_size = struct.unpack("<Q", data[:8])[0]
    begin, end = json.loads(data[8 : 8 + header_size])[name]["data_offsets"]
    part = data[8 + header_size + begin : 8 + header_size + end]
    change(part)
    data[8 + header_size + begin : 8 + header_size + end] = part
    path.write_bytes(data)


def check(done, out, *words: str) -> None:
    for word in words:
        assert word in done.stderr, done.stderr
    assert not list(out.iterdir()), list(out.iterdir())
    assert "terminate" not in done.stderr


def test_missing_model(sla2, out):
    check(sla2("generate", "-m", "/nowhere/model", "-p", "x", "-o", out / "a.mp4", code=NOT_FOUND), out, "/nowhere/model", "-m")


def test_missing_part_of_a_model(sla2, broken_model, out):
    (broken_model / "vae.safetensors").unlink()
    check(sla2("generate", "-m", broken_model, "-p", "x", "-o", out / "a.mp4", code=NOT_FOUND), out, "vae.safetensors")


def test_missing_checkpoint(sla2):
    assert "nothing.sla2ckpt" in sla2("resume", "/nowhere/nothing.sla2ckpt", code=NOT_FOUND).stderr


def test_truncated_weights(sla2, broken_model, out):
    path = broken_model / "dit.safetensors"
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size // 2)
    check(sla2("generate", "-m", broken_model, "-p", "x", "-o", out / "a.mp4", code=FORMAT), out, "dit.safetensors")
    assert "dit.safetensors" in sla2("info", path, code=FORMAT).stderr


def test_bit_flipped_header(sla2, broken_model, out):
    path = broken_model / "dit.safetensors"
    data = bytearray(path.read_bytes())
    data[6] ^= 0x40  # of the header's length
    path.write_bytes(data)
    check(sla2("generate", "-m", broken_model, "-p", "x", "-o", out / "a.mp4", code=FORMAT), out, "dit.safetensors")


def test_wrong_text_encoder(sla2, broken_model, out):
    shutil.copy(broken_model / "vae.safetensors", broken_model / "text_encoder.safetensors")
    check(sla2("generate", "-m", broken_model, "-p", "x", "-o", out / "a.mp4", code=MISMATCH), out, "text_encoder.safetensors", "VAE")


def test_wrong_vae(sla2, broken_model, out):
    shutil.copy(broken_model / "text_encoder.safetensors", broken_model / "vae.safetensors")
    check(sla2("generate", "-m", broken_model, "-p", "x", "-o", out / "a.mp4", code=MISMATCH), out, "vae.safetensors", "UMT5")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--width", "50"), ("width", "16")),
        (("--height", "100"), ("height", "16")),
        (("--frames", "10"), ("frames", "4k+1")),
        (("--sigmas", "0.5,0.9"), ("fall strictly",)),
        (("--frames", "9999"), ("frames", "1021")),
    ],
)
def test_impossible_sizes(generate, out, flags, words):
    check(generate("-o", out / "a.mp4", *flags, code=USAGE), out, *words)


def test_unknown_suffix(generate, out):
    check(generate("-o", out / "a.avi", code=USAGE), out, ".mp4", ".webm")
    check(generate("-o", out / "a.png", code=USAGE), out, "--sheet", "%04d")
    check(generate("-o", out / "a.mp4", "-o", out / "a.mp4", code=USAGE), out, "twice")
    check(generate(code=USAGE), out, "-o out.mp4")


def test_output_below_a_file(generate, out):
    """As root a read-only folder is writable, so the folder is one that cannot be: a file."""
    (out.parent / "file").write_text("x")
    check(generate("-o", out.parent / "file" / "a.mp4", code=WRITE), out, "a.mp4", "path")
    check(generate("-o", out.parent / "missing" / "a.mp4", code=WRITE), out, "a.mp4", "path")
    check(generate("-o", "/proc/a.mp4", code=WRITE), out, "/proc/a.mp4")


def test_read_only_folder(generate, out):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(out)], capture_output=True, check=False).returncode != 0:
        pytest.skip("mount is not permitted here")
    try:
        done = generate("-o", out / "a.mp4", code=WRITE)
    finally:
        subprocess.run(["umount", str(out)], check=True)
    check(done, out, "a.mp4", "may write")


def limited(bytes_: int):
    """Files of the child may not grow beyond this: a full disk that needs no root."""

    def apply() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, bytes_))

    return apply


def test_file_size_limit(generate, out):
    check(generate("-o", out / "png", "--no-checkpoint", preexec_fn=limited(1000), code=WRITE), out, "0000.png")


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "png"])
def test_full_disk(generate, out, name):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(out)], capture_output=True, check=False).returncode != 0:
        pytest.skip("mount is not permitted here")
    try:
        (out / "ballast").write_bytes(b"x" * 4096)
        done = generate("-o", out / name, "--no-checkpoint", "--quality", 0, code=WRITE)
        assert [entry.name for entry in out.iterdir()] == ["ballast"]
    finally:
        subprocess.run(["umount", str(out)], check=True)
    check(done, out, name, "No space left", "free some space")


def progress_of(done) -> set[tuple[str, int]]:
    events = [json.loads(line) for line in done.stdout.splitlines()]
    return {(event["phase"], event["step"]) for event in events if event["type"] == "progress"}


def test_a_disk_too_small_is_seen_before_the_work(generate, out, tmp_path):
    """Room for the temporary file, not for the clip; nor for the checkpoints."""
    large = ("--width", 256, "--height", 256, "--frames", 81)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(out)], capture_output=True, check=False).returncode != 0:
        pytest.skip("mount is not permitted here")
    try:
        clip = generate("-o", out / "png", "--no-checkpoint", "--json", *large, code=WRITE)
        state = generate("-o", tmp_path / "a.gif", "--checkpoint", out / "state", "--json", *large, code=WRITE)
        latent = generate("-o", tmp_path / "a.gif", "--no-checkpoint", "--latent-out", out / "z", "--json", *large, code=WRITE)
        assert not list(out.iterdir()) and not (tmp_path / "a.gif").exists()
    finally:
        subprocess.run(["umount", str(out)], check=True)
    for done, words in (
        (clip, ("png", "KiB are free", "No space left", "free some space")),
        (state, ("state", "checkpoints", "parameter checkpoint", "No space left")),
        (latent, ("finished latent", "parameter latent_out", "No space left")),
    ):
        error = json.loads(done.stdout.splitlines()[-1])
        assert error["type"] == "error" and all(word in error["message"] for word in words), error
        assert not any(phase == "sample" and step > 0 for phase, step in progress_of(done))


def test_full_disk_for_the_checkpoint(generate, out):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(out)], capture_output=True, check=False).returncode != 0:
        pytest.skip("mount is not permitted here")
    try:
        done = generate("-o", out / "a.mp4", code=WRITE)
        assert "No space left" in done.stderr and not (out / "a.mp4").exists()
        assert "sla2 resume" not in done.stderr
    finally:
        subprocess.run(["umount", str(out)], check=True)


def test_too_small_memory_limit(generate, out):
    check(generate("-o", out / "a.mp4", "--memory-limit", 1, code=MEMORY), out, "memory")


def test_nan_in_a_weight(sla2, broken_model, out):
    def plant(part: bytearray) -> None:
        part[0:4] = struct.pack("<f", float("nan"))

    header = (broken_model / "dit.safetensors").read_bytes()
    names = json.loads(header[8 : 8 + struct.unpack("<Q", header[:8])[0]])
    target = next(name for name in names if "blocks.1" in name and name.endswith("ffn.net.2.weight"))
    edit_tensor(broken_model / "dit.safetensors", target, plant)
    done = sla2("generate", "-m", broken_model, "-p", "x", "--steps", 3, "-o", out / "a.mp4", "--no-checkpoint", code=NUMERIC)
    check(done, out, "step", "block 1")


def test_the_report_of_a_run_that_failed(sla2, generate, broken_model, tool, environment, tiny_model, out):
    report = out / "report.json"

    def told() -> dict:
        assert [path.name for path in out.iterdir()] == ["report.json"]
        value = json.loads(report.read_text())
        assert value["format"] == "sla2.report" and value["finished"] and value["outputs"] == []
        report.unlink()
        return value

    def plant(part: bytearray) -> None:
        part[0:4] = struct.pack("<f", float("nan"))

    generate("-o", out / "a.mp4", "--report", report, "--vae", "/nowhere/vae.safetensors", code=NOT_FOUND)
    missing = told()
    assert missing["status"] != 0 and "/nowhere/vae.safetensors" in missing["error"]
    generate("-o", out / "a.mp4", "--report", report, "--memory-limit", 1, code=MEMORY)
    assert "memory_limit" in told()["error"]
    header = (broken_model / "dit.safetensors").read_bytes()
    names = json.loads(header[8 : 8 + struct.unpack("<Q", header[:8])[0]])
    edit_tensor(broken_model / "dit.safetensors", next(n for n in names if "blocks.1" in n and n.endswith("ffn.net.2.weight")), plant)
    flags = ("-m", broken_model, "-p", "x", "--steps", 3, "--no-checkpoint", "--report", report)
    done = sla2("generate", *flags, "-o", out / "a.mp4", code=NUMERIC)
    nan = told()
    assert nan["error"] in done.stderr and "block 1" in nan["error"] and nan["steps_done"] == 0 and len(nan["fallbacks"]) > 0
    command = [tool, "generate", "-m", tiny_model, "-p", "x", "--steps", "1000", "--json", "--no-checkpoint", "--report", report]
    with subprocess.Popen([*command, "-o", out / "a.mp4"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as process:
        for line in process.stdout:
            event = json.loads(line)
            if event.get("phase") == "sample" and event["step"] == 2:
                break
        os.kill(process.pid, signal.SIGINT)
        process.stdout.read()
        assert process.wait(60) == 130
    stopped = told()
    assert "cancelled" in stopped["error"].lower() and 0 < stopped["steps_done"] < 1000


def test_nan_in_a_weight_of_the_vae(sla2, broken_model, out):
    def plant(part: bytearray) -> None:
        part[0:4] = struct.pack("<f", float("nan"))

    good = (broken_model / "vae.safetensors").read_bytes()
    edit_tensor(broken_model / "vae.safetensors", "decoder.conv_in.weight", plant)
    done = sla2("generate", "-m", broken_model, "-p", "x", "--steps", 3, "-o", out / "a.gif", code=NUMERIC)
    for word in ("vae.safetensors", "Download it again", "latent is sound", f"sla2 resume {out}/a.gif.sla2ckpt"):
        assert word in done.stderr, done.stderr
    assert not (out / "a.gif").exists()
    (broken_model / "vae.safetensors").write_bytes(good)  # the remedy, and then what the message says
    sla2("resume", out / "a.gif.sla2ckpt")
    assert [entry.name for entry in out.iterdir()] == ["a.gif"]


def test_a_prompt_of_3000_words(generate, out):
    done = generate("-p", "word " * 3000, "-o", out / "a.gif")
    assert "token" in done.stderr
    assert [entry.name for entry in out.iterdir()] == ["a.gif"]


def test_invalid_utf8(generate, out):
    check(generate("-p", b"a \xff\xfe ball", "-o", out / "a.mp4", code=USAGE), out, "UTF-8")


def test_from_a_foreign_file(sla2, out, tiny_model, tmp_path):
    foreign = tmp_path / "foreign.mp4"
    subprocess.run(["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc=duration=0.2:size=64x64", str(foreign)], check=True, timeout=60)
    check(sla2("generate", "--from", foreign, "-m", tiny_model, "-o", out / "a.mp4", code=FORMAT), out, "no settings")
    assert "no settings" in sla2("info", foreign).stdout
    check(sla2("generate", "--from", "/nowhere.mp4", "-o", out / "a.mp4", code=NOT_FOUND), out, "/nowhere.mp4")


def test_two_runs_do_not_share_an_output(generate, out):
    import fcntl

    with open(out / ".a.mp4.sla2tmp", "w", encoding="ascii") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert "another sla2" in generate("-o", out / "a.mp4", code=WRITE).stderr


def test_second_ctrl_c_ends_at_once(tool, tiny_model, out, environment):
    with subprocess.Popen(
        [tool, "generate", "-m", tiny_model, "-p", "x", "--steps", "1000", "--json", "-o", out / "a.mp4"],
        stdout=subprocess.PIPE,
        env=environment,
    ) as process:
        for line in process.stdout:
            if b'"phase":"sample"' in line:
                break
        os.kill(process.pid, signal.SIGINT)
        os.kill(process.pid, signal.SIGINT)
        process.stdout.close()
        assert process.wait(30) == 130
    assert not (out / "a.mp4").exists()
