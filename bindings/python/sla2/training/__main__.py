# SPDX-License-Identifier: Apache-2.0
"""python -m sla2.training: the command sla2-train."""

from sla2.training.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
