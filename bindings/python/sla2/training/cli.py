# SPDX-License-Identifier: Apache-2.0
"""The command sla2-train."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from sla2 import training
from sla2.errors import Error
from sla2.training import config, schema

_COMMANDS = {
    "fit": ("stage 1: routers and mixing numbers on the model's own queries, keys and values", training.fit),
    "train": ("stage 2: the model with sparse attention beside its teacher", training.train),
    "schedule": ("measure which layers stand a cheaper attention", training.calibrate_schedule),
    "export": ("write weights or a LoRA and the pack that belongs to them", training.export),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0, or 1 with one line on standard error."""
    parser = argparse.ArgumentParser(prog="sla2-train", description="Train sparse attention for Wan models (docs/training.md).")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (about, _) in _COMMANDS.items():
        command = commands.add_parser(name, help=about, description=about)
        command.add_argument("config", help="configuration in YAML")
        command.add_argument("overrides", nargs="*", metavar="section.key=value", help="laid over the configuration")
        command.add_argument("--check", action="store_true", help="check the configuration, print it and stop")
    commands.add_parser("reference", help="print every key of the configuration as Markdown")
    args = parser.parse_args(arguments)
    if args.command == "reference":
        print(schema.reference(), end="")
        return 0
    try:
        found = config.load(args.config, args.overrides)
        if args.check:
            print(found.as_yaml(), end="")
            return 0
        result = _COMMANDS[args.command][1](found)  # type: ignore[arg-type]
    except Error as error:
        print(f"sla2-train: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("sla2-train: stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    print(json.dumps({name: value for name, value in result.items() if not name.endswith("per_sample")}))
    return 0
