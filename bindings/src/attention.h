// SPDX-License-Identifier: Apache-2.0
// Attention plans. sla2/_attention.py gives them their words and keeps them.
#pragma once
#include <pybind11/pybind11.h>

namespace sla2::python {
void define_attention(pybind11::module_& module);
}
