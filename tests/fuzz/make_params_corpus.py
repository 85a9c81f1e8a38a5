# SPDX-License-Identifier: Apache-2.0
"""Seeds for fuzz_params: presets as they are shipped, one value of each type, and the mistakes the tests know.

python tests/fuzz/make_params_corpus.py
"""

from __future__ import annotations

import json
from pathlib import Path

TEXTS = {
    "types": json.dumps(
        {
            "steps": 4,
            "cfg_scale": 1.5,
            "nan_retry": True,
            "prompt": "a \u7403\U0001f388\n",
            "sigmas": [1, 0.5, 1e-3],
            "attention": "sla2",
            "block_q": 64,
            "seed": 18446744073709551615,
        },
        indent=1,
    ).encode(),
    "wrapped": b'{"name": "n", "description": "d",\n "params": {"seed": -1, "width": 64}}',
    "empty": b"{}",
    "twice": b'{"steps": 1, "steps": 2}',
    "unknown": b'{"stepz": 1}',
    "null": b'{"steps": null}',
    "lists": b'{"sigmas": [[1]], "params": []}',
    "large": b'{"cfg_scale": 1e999, "steps": 99999999999999999999}',
    "surrogate": b'{"prompt": "\\ud800\\u0000"}',
    "not_json": b'{"steps": 1,\n\n]',
}


def main() -> None:
    here = Path(__file__).parent
    folder = here / "corpus" / "params"
    folder.mkdir(parents=True, exist_ok=True)
    for preset in ("demo", "fast"):
        TEXTS[f"preset_{preset}"] = (here.parents[1] / "presets" / f"{preset}.json").read_bytes()
    for name, text in TEXTS.items():
        (folder / name).write_bytes(text)


if __name__ == "__main__":
    main()
