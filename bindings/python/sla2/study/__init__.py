# SPDX-License-Identifier: Apache-2.0
"""A small captioned world and a small Wan2.1 model that learns to draw it."""
