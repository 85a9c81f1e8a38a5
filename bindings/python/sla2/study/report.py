# SPDX-License-Identifier: Apache-2.0
"""Draw the training curves and collect the held-out figures in ``metrics.json``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib
import numpy as np
import torch

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Return the running mean of ``values`` over ``width`` entries."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    return (total[width:] - total[:-width]) / width


def curves(work: Path, out: Path) -> dict:
    """Draw the transformer's and the VAE's curves side by side and return their last figures."""
    dit = torch.load(work / "dit.pt", weights_only=False)
    image = torch.load(work / "image_vae.pt", weights_only=False)
    figure, (left, right) = plt.subplots(1, 2, figsize=(7, 2.6), dpi=80)
    loss = np.array([r[2] for r in dit["log"]])
    left.plot(np.arange(len(loss))[19:] + 1, smooth(loss, 20), lw=1, label="training, mean of 20 steps")
    left.plot(*zip(*dit["held"]), "o-", ms=2, lw=1, label="held-out, averaged weights")
    left.set(xlabel="step", ylabel="flow loss", title="transformer", ylim=(0, 1.5))
    left.legend(fontsize=6)
    error = np.array([r[2] for r in image["log"]])
    right.plot(np.arange(len(error))[19:] + 1, -10 * np.log10(smooth(error, 20) / 4), lw=1)
    right.set(xlabel="step", ylabel="training PSNR (dB)", title="VAE, single frames")
    figure.tight_layout()
    figure.savefig(out / "curves.png")
    return {
        "dit": {
            "steps": dit["step"],
            "batch": dit["batch"],
            "clips_cached": dit["clips"],
            "minutes": round(dit["spent"] / 60, 1),
            "held_out_flow_loss": round(dit["held"][-1][1], 4),
        },
        "image_vae": {"steps": image["step"], "minutes": round(image["spent"] / 60, 1)},
    }


def main() -> None:
    """Parse the command line; further JSON files (printed by other commands) are merged in by name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/study"))
    parser.add_argument("--out", type=Path, default=Path("presets/models/small_world"))
    parser.add_argument("results", nargs="*", metavar="NAME=FILE", help="a command's output whose last line is JSON, to keep under NAME")
    args = parser.parse_args()
    metrics = curves(args.work, args.out)
    for item in args.results:
        name, _, file = item.partition("=")
        metrics[name] = json.loads(Path(file).read_text().strip().splitlines()[-1])
    (args.out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    print(json.dumps(metrics))


if __name__ == "__main__":
    main()
