# SPDX-License-Identifier: Apache-2.0
"""python -m sla2.calibration, the same as sla2-calibrate."""

import sys

from sla2.calibration.cli import main

sys.exit(main())
