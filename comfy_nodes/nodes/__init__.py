# SPDX-License-Identifier: Apache-2.0
"""The nodes: one file each. Here ComfyUI is known; the logic is in sla2_nodes."""
