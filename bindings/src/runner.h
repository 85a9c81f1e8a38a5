// SPDX-License-Identifier: Apache-2.0
// Models and generation jobs. Events of a job wait in a queue until Python asks for them, so that Python code runs on the
// caller's thread only, Ctrl-C works, and no callback needs the GIL.
#pragma once
#include <pybind11/pybind11.h>

namespace sla2::python {
void define_runner(pybind11::module_& module);
}
