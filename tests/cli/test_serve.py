# SPDX-License-Identifier: Apache-2.0
"""The worker: handshake, answers, jobs in order, cancel, bad lines, the end of standard input."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess

import pytest

PARAMS = {"prompt": "a green tree rests by the sea by day", "steps": 3}
LONGEST_LINE = 1 << 20


class Session:
    def __init__(self, tool, environment):
        self.process = subprocess.Popen([tool, "serve", "--stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self.seen = []

    def send(self, line) -> None:
        text = line if isinstance(line, bytes) else json.dumps(line).encode()
        self.process.stdin.write(text + b"\n")
        self.process.stdin.flush()

    def until(self, wanted) -> dict:
        """Next event for which wanted(event) holds; the ones before go to `seen`."""
        for line in self.process.stdout:
            event = json.loads(line)
            self.seen.append(event)
            if wanted(event):
                return event
        raise AssertionError(f"the worker ended; it said {self.seen[-5:]}")

    def ask(self, request: dict) -> dict:
        self.send(request)
        return self.until(lambda event: event["id"] == request["id"] and event["type"] in ("result", "error"))

    def end_of(self, job) -> dict:
        return self.until(lambda event: event["id"] == job and event["type"] in ("done", "error"))


@pytest.fixture()
def session(tool, environment):
    session = Session(tool, environment)
    hello = session.until(lambda event: event["type"] == "hello")
    assert hello["protocol"] == 1 and hello["version"].startswith("0.")
    yield session
    session.process.stdin.close()
    rest = session.process.stdout.read()
    session.process.stdout.close()
    assert session.process.wait(60) == 0, rest


def generate(model, identity, *outputs, **more) -> dict:
    return {
        "id": identity,
        "method": "generate",
        "params": {"params": {**PARAMS, "model": str(model), **more}, "outputs": [str(path) for path in outputs]},
    }


def test_questions(session, tiny_model):
    assert isinstance(session.ask({"id": 1, "method": "presets"})["result"], list)
    assert any(row["name"] == "steps" for row in session.ask({"id": "a", "method": "params"})["result"])
    assert "system" in session.ask({"id": 2, "method": "doctor"})["result"]
    info = session.ask({"id": 3, "method": "info", "params": {"path": str(tiny_model / "dit.safetensors")}})
    assert info["result"]["kind"] == "wan_dit"
    assert session.ask({"id": 4, "method": "info", "params": {"path": "/nowhere"}})["status"] == "SLA2_E_FILE_NOT_FOUND"
    assert session.ask({"id": 5, "method": "cancel", "params": {"job": 99}})["result"] == {"cancelled": False}


def test_jobs_run_in_order(session, tiny_model, tmp_path):
    session.send(generate(tiny_model, 1, tmp_path / "a.mp4"))
    session.send(generate(tiny_model, 2, tmp_path / "b.gif", seed=5))
    session.send(generate(tiny_model, 1, tmp_path / "c.gif"))  # the id is taken
    session.end_of(2)
    kinds = [(event["id"], event["type"]) for event in session.seen]
    assert kinds.index((1, "done")) < kinds.index((2, "started"))
    assert kinds.count((1, "error")) == 1 and kinds.count((2, "error")) == 0
    steps = [event["step"] for event in session.seen if event["id"] == 1 and event.get("phase") == "sample"]
    assert steps == sorted(steps) and steps[-1] == 3
    preview = next(event for event in session.seen if event["type"] == "preview")
    assert len(base64.b64decode(preview["rgb"])) == 3 * preview["width"] * preview["height"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.gif"]


def test_cancel_and_resume(session, tiny_model, tmp_path):
    session.send(generate(tiny_model, "long", tmp_path / "a.gif", steps=500))
    session.send(generate(tiny_model, "waiting", tmp_path / "b.gif"))
    session.until(lambda event: event["id"] == "long" and event.get("phase") == "sample" and event["step"] >= 2)
    session.send({"id": 9, "method": "cancel", "params": {"job": "waiting"}})
    session.send({"id": 10, "method": "cancel", "params": {"job": "long"}})
    end = session.end_of("long")
    assert end["status"] == "SLA2_E_CANCELLED" and end["resume"].endswith("a.gif.sla2ckpt")
    results = {event["id"]: event["result"] for event in session.seen if event["type"] == "result"}
    assert results == {9: {"cancelled": True}, 10: {"cancelled": True}}
    assert not (tmp_path / "a.gif").exists()
    session.send({"id": "again", "method": "resume", "params": {"checkpoint": str(tmp_path / "a.gif.sla2ckpt")}})
    session.until(lambda event: event["id"] == "again" and event.get("phase") == "sample" and event["step"] > 2)
    session.send({"id": 11, "method": "cancel", "params": {"job": "again"}})
    session.end_of("again")


def test_errors_of_a_job(session, tiny_model, tmp_path):
    session.send(generate(tiny_model, 1, tmp_path / "a.mp4", steps=0))
    assert session.end_of(1)["status"] == "SLA2_E_ARGUMENT"
    session.send(generate("/nowhere", 2, tmp_path / "a.mp4"))
    assert session.end_of(2)["status"] == "SLA2_E_FILE_NOT_FOUND"
    session.send(generate(tiny_model, 3, tmp_path / "missing" / "a.mp4"))
    assert session.end_of(3)["status"] == "SLA2_E_FILE_WRITE"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "line",
    [
        b"not json",
        b"[]",
        b"{}",
        b'{"id": 1}',
        b'{"id": 1.5, "method": "info"}',
        b'{"id": 1, "method": "fly"}',
        b'{"id": 1, "method": "info", "params": {"path": 3}}',
        b'{"id": 1, "method": "info", "params": {"path": "a", "more": 1}}',
        b'{"id": 1, "method": "info", "params": {"path": "a\\u0000b"}}',
        b"\xff\xfe",
        b"[" * 100000,
        b'{"id": 1, "method": "generate", "params": {"outputs": "a.mp4"}}',
        b"x" * (LONGEST_LINE + 10),
    ],
)
def test_bad_lines_get_an_error_and_the_worker_goes_on(session, line):
    session.send(line)
    error = session.until(lambda event: event["type"] == "error")
    assert error["status"] == "SLA2_E_ARGUMENT" and error["message"] and error["id"] in (1, None)
    assert session.ask({"id": 2, "method": "presets"})["type"] == "result"


def test_shutdown(tool, environment):
    done = subprocess.run(
        [tool, "serve", "--stdio"],
        input=b'{"id": 1, "method": "shutdown"}\n{"id": 2, "method": "doctor"}\n',
        capture_output=True,
        check=False,
        timeout=60,
        env=environment,
    )
    assert done.returncode == 0
    assert [json.loads(line)["type"] for line in done.stdout.splitlines()] == ["hello", "result"]


@pytest.mark.parametrize("how", ["eof", "sigterm"])
def test_the_end_leaves_a_checkpoint(tool, environment, tiny_model, tmp_path, how):
    session = Session(tool, environment)
    session.send(generate(tiny_model, 1, tmp_path / "a.mp4", steps=500))
    session.until(lambda event: event.get("phase") == "sample" and event["step"] >= 2)
    if how == "eof":
        session.process.stdin.close()
    else:
        os.kill(session.process.pid, signal.SIGTERM)
    assert session.end_of(1)["status"] == "SLA2_E_CANCELLED"
    assert session.process.wait(60) == 0
    session.process.stdout.close()
    if how == "sigterm":
        session.process.stdin.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4.sla2ckpt", "a.mp4.sla2ckpt.json"]
