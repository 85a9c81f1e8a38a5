# SPDX-License-Identifier: Apache-2.0
"""Stands in for torchvision, which core imports but Wan never calls: its wheels do not match a CPU build of torch."""
