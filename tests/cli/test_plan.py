# SPDX-License-Identifier: Apache-2.0
"""sla2 generate --plan: the memory plan, and nothing else happens."""

from __future__ import annotations

import json

MEMORY, USAGE = 7, 2


def test_the_plan_is_printed_and_nothing_runs(sla2, generate, tiny_model, tmp_path):
    command = ("generate", "-m", tiny_model, "-p", "a ball", "--steps", 3, "--plan")
    text = sla2(*command, cwd=tmp_path).stdout
    for word in ("text encoding:", "sampling:", "weights:", "activations:", "attention workspace:", "decoding:", "peak:", "available"):
        assert word in text, text
    told = json.loads(sla2(*command, "-o", tmp_path / "a.mp4", "--json", cwd=tmp_path).stdout)
    assert told["type"] == "plan" and told["tokens"] == 36 and told["text"].splitlines()[0] == text.splitlines()[0]
    assert not list(tmp_path.iterdir())
    # The same numbers as the run's own.
    generate("-o", tmp_path / "a.gif", "--report", tmp_path / "r.json", "-p", "a ball")
    memory = json.loads((tmp_path / "r.json").read_text())["memory"]
    for key in ("planned_bytes", "planned_text_bytes", "planned_sample_bytes", "planned_decode_bytes"):
        assert told["memory"][key] == memory[key] > 0


def test_what_does_not_fit_and_what_is_wrong(sla2, tiny_model):
    command = ("generate", "-m", tiny_model, "-p", "a ball", "--plan")
    assert "peak:" in sla2(*command, "--memory-limit", 1, code=MEMORY).stderr
    assert "1000" in sla2(*command, "--steps", 0, code=USAGE).stderr
