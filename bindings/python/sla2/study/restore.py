# SPDX-License-Identifier: Apache-2.0
"""Turn an exported model back into checkpoints, so that training goes on where no checkpoint was kept.

The weights are the exported averages; the optimisers start afresh.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from . import dit_train, export, vae_train
from .optim import save


def restore(folder: Path, work: Path) -> None:
    """Write text encoder, VAE (as images' and as clips') and transformer from ``folder`` to ``work``."""
    encoder, spiece = export.load_text(folder)
    save(work / "text.pt", {"model": encoder.state_dict(), "spiece": spiece})
    vae = export.load_vae(folder)
    begun = {"opt": None, "step": 0, "spent": 0.0, "log": []}

    def weights(state: dict) -> dict:
        return {"model": state, "ema": {"count": 0, "shadow": {k: v.clone() for k, v in state.items()}}}

    for name in ("image_vae.pt", "vae.pt"):
        save(work / name, {**weights(vae.state_dict()), **begun, "config": vae_train.CONFIG})
    save(work / "dit_start.pt", {**weights(export.load_dit(folder).state_dict()), "config": dit_train.CONFIG})


def main() -> None:
    """Parse the command line and restore."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("presets/models/small_world"))
    parser.add_argument("--work", type=Path, default=Path("build/study"), help="folder of checkpoints")
    args = parser.parse_args()
    restore(args.model, args.work)


if __name__ == "__main__":
    main()
