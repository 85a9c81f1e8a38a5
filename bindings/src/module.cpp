// SPDX-License-Identifier: Apache-2.0
// sla2._sla2: the C door of libsla2 for Python. No arithmetic here; everything a person meets is in the package around it.
#include <pybind11/pybind11.h>

#include "attention.h"
#include "runner.h"

PYBIND11_MODULE(_sla2, module) {
  module.doc() = "The compiled part of sla2; use the package sla2.";
  sla2::python::define_runner(module);
  sla2::python::define_attention(module);
}
