# SPDX-License-Identifier: Apache-2.0
"""ComfyUI's own server on the CPU, with a base folder of its own, and prompts sent to it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from conftest import BUILD, ROOT

HERE = Path(__file__).resolve().parent


def standins() -> list[str]:
    """Folders for PYTHONPATH: a stand-in for each of torchvision and torchaudio that cannot be imported."""
    found = []
    for name in ("torchvision", "torchaudio"):
        if subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True, check=False).returncode:
            found.append(name)
    return [str(HERE / "standins" / name) for name in found]


def make_base(base: Path, *, nodes: Path = ROOT / "comfy_nodes") -> Path:
    """A base folder with the pack and the test nodes installed as users install packs: as plain copies."""
    for name in ("models/diffusion_models", "models/sla2", "models/loras", "output", "input", "user", "temp", "web", "custom_nodes"):
        (base / name).mkdir(parents=True, exist_ok=True)
    (base / "web" / "index.html").write_text("<html></html>")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(nodes, base / "custom_nodes" / "sla2", ignore=ignore, dirs_exist_ok=True)
    shutil.copytree(HERE / "test_nodes", base / "custom_nodes" / "sla2_test_nodes", ignore=ignore, dirs_exist_ok=True)
    return base


class PromptError(RuntimeError):
    """A prompt was refused or failed; the text is the server's."""


class Server:
    def __init__(self, comfyui: Path, base: Path, *, wheel: Path | None = BUILD / "bindings", web: Path | None = None) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.base, self.log_path = base, base / "server.log"
        paths = [*standins(), *([str(wheel)] if wheel else [])]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "SLA2_TESTS": str(HERE), "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "main.py", "--cpu", "--listen", "127.0.0.1", "--port", str(self.port), "--base-directory", str(base)]
        command += ["--database-url", "sqlite:///:memory:", "--front-end-root", str(web or base / "web"), "--disable-api-nodes"]
        with self.log_path.open("w") as log:
            self.process = subprocess.Popen(command, cwd=comfyui, env=env, stdout=log, stderr=subprocess.STDOUT)
        self._wait_until_ready()

    def _wait_until_ready(self, seconds: float = 180) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.log[-4000:]}")
            try:
                self.get("/system_stats")
            except OSError:
                time.sleep(0.2)
            else:
                return
        self.stop()
        raise AssertionError(f"the server was not ready in {seconds} s:\n{self.log[-4000:]}")

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return json.load(answer)

    def post(self, path: str, body: Any) -> Any:
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise PromptError(error.read().decode()) from error
        return json.loads(text) if text else None

    def queue(self, graph: dict[str, Any]) -> str:
        return str(self.post("/prompt", {"prompt": graph})["prompt_id"])

    def wait(self, prompt: str, seconds: float = 300) -> dict[str, Any]:
        """Outputs by node. Raises PromptError with the server's words where the prompt failed."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            history = self.get(f"/history/{prompt}").get(prompt)
            if history is not None and history["status"].get("completed"):
                return dict(history["outputs"])
            if history is not None and history["status"].get("status_str") == "error":
                raise PromptError(json.dumps(history["status"]["messages"][-1]))
            time.sleep(0.05)
        raise AssertionError(f"prompt {prompt} took more than {seconds} s:\n{self.log[-2000:]}")

    def run(self, graph: dict[str, Any]) -> dict[str, Any]:
        return self.wait(self.queue(graph))

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
