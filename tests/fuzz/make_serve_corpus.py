# SPDX-License-Identifier: Apache-2.0
"""Seeds for fuzz_serve: one well-formed line per method, and the mistakes the tests know. First byte: size of the pieces.

python tests/fuzz/make_serve_corpus.py
"""

from __future__ import annotations

import json
from pathlib import Path

LINES = {
    "generate": {
        "id": 1,
        "method": "generate",
        "params": {
            "preset": "demo",
            "params": {"prompt": "a ball", "steps": 4, "cfg_scale": 1.5, "nan_retry": True, "sigmas": [1, 0.5]},
            "outputs": ["a.mp4", "png"],
            "sheet": "s.png",
            "report": "r.json",
            "quality": 20,
            "keep_checkpoint": False,
            "previews": True,
        },
    },
    "resume": {"id": "j", "method": "resume", "params": {"checkpoint": "a.sla2ckpt", "model": "m", "threads": 2}},
    "cancel": {"id": 2, "method": "cancel", "params": {"job": 1}},
    "info": {"id": 3, "method": "info", "params": {"path": "a.mp4"}},
    "presets": {"id": 4, "method": "presets"},
    "shutdown": {"id": 5, "method": "shutdown", "params": None},
    "unknown": {"id": 6, "method": "fly"},
    "no_id": {"method": "info"},
}


def main() -> None:
    folder = Path(__file__).parent / "corpus" / "serve"
    folder.mkdir(parents=True, exist_ok=True)
    texts = {name: json.dumps(line).encode() for name, line in LINES.items()}
    texts["all"] = b"\r\n".join(texts.values())
    texts["deep"] = b"[" * 40
    texts["not_json"] = b'{"id": 1, "method"\n\n{'
    for name, text in texts.items():
        (folder / name).write_bytes(b"\x06" + text + b"\n")


if __name__ == "__main__":
    main()
