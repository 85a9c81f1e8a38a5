# SPDX-License-Identifier: Apache-2.0
"""The quality study: what sparse attention costs a trained diffusion transformer, arm by arm."""
