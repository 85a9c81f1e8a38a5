# SPDX-License-Identifier: Apache-2.0
"""Python bindings of libsla2; so far the package of `study`, which trains and measures the model that ships."""
