# SPDX-License-Identifier: Apache-2.0
"""Command line of the quality study. See PREREGISTRATION.md for what is compared, and libsla2/docs/quality.md for the outcome.

python -m sla2.study.quality clips      cache latents of large clips (build/study/large)
python -m sla2.study.quality teacher    adapt the small world's model to them with full attention
python -m sla2.study.quality run        train and measure every arm; stop and start as you like
python -m sla2.study.quality heads      the first stage head by head, after `run` has done sla2_95 and topk_95
python -m sla2.study.quality packs      fit and train the router packs of presets/models/small_world
python -m sla2.study.quality captions   caption accuracy of the shipped model with each of its packs
python -m sla2.study.quality report     make the tables and pictures of libsla2/docs/quality.md again
"""

from __future__ import annotations

import argparse
from pathlib import Path

RESULTS = Path(__file__).resolve().parents[1] / "results"


def main() -> None:
    """Parse the command line and do one of the steps."""
    parser = argparse.ArgumentParser(
        prog="python -m sla2.study.quality", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--work", default="build/study", type=Path, help="folder of checkpoints")
    steps = parser.add_subparsers(dest="step", required=True)
    threads = argparse.ArgumentParser(add_help=False)
    threads.add_argument("--threads", type=int, default=1)
    step = steps.add_parser("clips", parents=[threads])
    step.add_argument("--count", type=int, default=384, help="training clips")
    step.add_argument("--test", type=int, default=48, help="held-out clips")
    step = steps.add_parser("teacher", parents=[threads])
    step.add_argument("--minutes", type=float, default=38)
    step.add_argument("--batch", type=int, default=4)
    step.add_argument("--lr", type=float, default=2e-3)
    step = steps.add_parser("run", parents=[threads])
    step.add_argument("--budget", default="cpu", choices=("smoke", "cpu", "gpu"))
    step.add_argument("--only", nargs="*", default=[], help="names of arms")
    step.add_argument("--out", type=Path, help="folder of results; default: results of the budget")
    step.add_argument("--parts", type=int, default=1, help="above 1: this process shares the list with others that run now")
    step = steps.add_parser("heads", parents=[threads])
    step.add_argument("--budget", default="cpu")
    step = steps.add_parser("packs", parents=[threads])
    step = steps.add_parser("captions", parents=[threads])
    step.add_argument("--count", type=int, default=128, help="clips an arm")
    step.add_argument("--runner", default="build/dev/bin/sla2", help="the sla2 program")
    step = steps.add_parser("report")
    step.add_argument("--budget", default="cpu")
    step.add_argument("--docs", type=Path, default=Path("libsla2/docs"))
    args = parser.parse_args()
    if args.step == "report":
        from .report import write

        write(RESULTS / args.budget, args.docs)
        return
    import torch

    torch.set_num_threads(args.threads)
    if args.step == "clips":
        from . import clips

        clips.write(args.work, clips.LARGE, args.count, args.test)
    elif args.step == "teacher":
        from . import teacher

        teacher.train(args.work, args.minutes, args.batch, args.lr)
    elif args.step == "heads":
        from . import heads

        heads.write(args.work, RESULTS / args.budget / "first_stage.json")
    elif args.step == "packs":
        from . import packs

        packs.write_summary(packs.make(args.work), RESULTS / "packs.json")
    elif args.step == "captions":
        from . import captions, packs

        captions.write(packs.MODEL, packs.MODEL / "packs", args.count, RESULTS / "captions.json", args.runner, args.threads)
    else:
        from .run import BUDGETS, run

        run(args.work, args.out or RESULTS / args.budget, BUDGETS[args.budget], args.only, args.parts)


if __name__ == "__main__":
    main()
