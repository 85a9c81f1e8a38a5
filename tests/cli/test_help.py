# SPDX-License-Identifier: Apache-2.0
"""Help, version, and what a mistyped command line hears."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

COMMANDS = ("generate", "compare", "resume", "info", "bench", "presets", "doctor", "serve")


def test_top_help_lists_commands_and_exit_codes(sla2):
    text = sla2("--help").stdout
    for command in COMMANDS:
        assert command in text
    assert "Exit codes:" in text and "130" in text and "Example" in text


@pytest.mark.parametrize("command", [*COMMANDS, "presets list", "presets show", "presets check"])
def test_each_command_has_help_with_an_example(sla2, command):
    text = sla2(*command.split(), "--help").stdout
    assert "Example" in text and f"sla2 {command.split()[0]}" in text


def test_generate_help_comes_from_the_parameter_table(sla2, tool, environment):
    import subprocess

    text = sla2("generate", "--help").stdout
    asked = subprocess.run(
        [tool, "serve", "--stdio"],
        input='{"id": 1, "method": "params"}\n',
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=environment,
    )
    answer = [json.loads(line) for line in asked.stdout.splitlines()][-1]
    assert len(answer["result"]) > 30
    for row in answer["result"]:
        assert "--" + row["name"].replace("_", "-") in text, row["name"]
        assert row["group"] in text
    assert "16 … 8192 px; default 832" in " ".join(text.split())


def test_version(sla2):
    assert sla2("--version").stdout.startswith("sla2 0.")


def test_no_command_shows_help(sla2):
    assert "generate" in sla2(code=2).stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("generate", "--stepps", "3"), "--steps"),
        (("generate", "--cfg_scale=2"), "--cfg-scale"),
        (("genrate",), "generate"),
        (("presets", "lst"), "list"),
    ],
)
def test_a_mistyped_word_gets_the_nearest(sla2, arguments, words):
    error = sla2(*arguments, code=2).stderr
    assert f"did you mean {words}?" in error and "--help" in error


def test_bad_values_are_refused_before_anything_runs(sla2, tiny_model, tmp_path):
    for flags, words in (
        (("--steps", "many"), "whole number"),
        (("--steps", "0"), "1 to 1000"),
        (("--sampler", "eulr"), "euler"),
        (("--quality", "99"), "63"),
        (("--sigmas", "1,x"), "not a number"),
    ):
        error = sla2("generate", "-m", tiny_model, "-p", "x", "-o", tmp_path / "a.mp4", *flags, code=2).stderr
        assert words in error, error
    assert not list(tmp_path.iterdir())


def test_doctor(sla2):
    report = json.loads(sla2("doctor", "--json").stdout)
    assert report["system"]["threads"] >= 1
    assert any(e["container"] == "mp4" and e["used"] for e in report["encoders"])
    assert {"libavcodec", "libavformat", "libswscale"} <= set(report["libraries"])
    assert "Encoders" in sla2("doctor").stdout


def test_doctor_says_what_the_cpu_and_the_libraries_are_for(sla2):
    report = json.loads(sla2("doctor", "--json").stdout)
    flags = set(re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE).group(1).split())
    names = {"AVX2": "avx2", "FMA": "fma", "F16C": "f16c", "AVX-512 VNNI": "avx512_vnni", "AVX-512 BF16": "avx512_bf16"}
    features = {one["name"]: one for one in report["system"]["cpu_features"]}
    assert {name: features[name]["present"] for name in names} == {name: flag in flags for name, flag in names.items()}
    assert features["AVX-512"]["present"] == ({"avx512f", "avx512cd", "avx512bw", "avx512vl", "avx512dq"} <= flags)
    assert all(one["enables"] for one in features.values())
    assert report["library_uses"].keys() == report["libraries"].keys() and all(report["library_uses"].values())
    text = sla2("doctor").stdout
    assert all(one["enables"] in text for one in features.values())


def test_an_instruction_set_that_cannot_be_had_is_told(sla2, generate, environment, tmp_path):
    for word, lowered in (("avx9", False), ("scalar", True)):
        chosen = {**environment, "SLA2_ISA": word}
        assert ("SLA2_ISA=" in sla2("doctor", env=chosen).stdout) != lowered
        system = json.loads(sla2("doctor", "--json", env=chosen).stdout)["system"]
        assert bool(system["isa_complaint"]) != lowered and (system["isa"] == "scalar") == lowered
    told = generate("-o", tmp_path / "a.gif", "--steps", "1", env={**environment, "SLA2_ISA": "avx9"}).stderr
    assert told.count("SLA2_ISA=avx9 is no instruction set; expected scalar, avx2, avx512, avx512_vnni or avx512_bf16") == 1
