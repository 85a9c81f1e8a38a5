# SPDX-License-Identifier: Apache-2.0
"""What the nodes do, without ComfyUI: nothing in this folder imports it, so all of it is tested alone."""
