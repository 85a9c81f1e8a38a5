// SPDX-License-Identifier: Apache-2.0
#include "errors.h"

namespace py = pybind11;

namespace sla2::python {

void raise(sla2_status status, const std::string& text) {
  const py::object error = py::module_::import("sla2.errors").attr("from_status")(status, sla2_status_name(status), text);
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.ptr())), error.ptr());
  throw py::error_already_set();
}

}  // namespace sla2::python
