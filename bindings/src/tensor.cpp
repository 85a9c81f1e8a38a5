// SPDX-License-Identifier: Apache-2.0
#include "tensor.h"

#include <pybind11/numpy.h>

#include "dlpack_abi.h"
#include "errors.h"
// After DLPack's layout, which it asks for.
#include <sla2/dlpack.h>

namespace py = pybind11;

namespace sla2::python {
namespace {

struct ElementType {
  uint8_t code, bits;
};

ElementType element_type(const py::dtype& type, const char* name) {
  const auto bits = static_cast<uint8_t>(8 * type.itemsize());
  switch (type.kind()) {
    case 'f': return {SLA2_DTYPE_FLOAT, bits};
    case 'i': return {SLA2_DTYPE_INT, bits};
    case 'u': return {SLA2_DTYPE_UINT, bits};
    case 'b': return {SLA2_DTYPE_BOOL, bits};
    default: break;
  }
  if (std::string(py::str(type)) == "bfloat16") return {SLA2_DTYPE_BFLOAT, bits};  // of the package ml_dtypes
  throw py::type_error(std::string(name) + ": element type " + std::string(py::str(type)) +
                       "; expected float32, float16 or bfloat16 (integers and bool where a list or mask is meant)");
}

}  // namespace

Tensor::Tensor(const py::handle& source, const char* name, bool written) {
  require(sla2_tensor_init(&view_, sizeof view_));
  if (py::isinstance<py::array>(source)) {
    take_numpy(source, name, written);
  } else if (py::hasattr(source, "__dlpack__")) {
    take_dlpack(source, name, written);
  } else {
    throw py::type_error(std::string(name) + ": " + std::string(py::str(py::type::of(source))) +
                         "; expected a NumPy array or anything with __dlpack__, such as a torch tensor");
  }
}

void Tensor::take_numpy(const py::handle& source, const char* name, bool written) {
  auto array = py::reinterpret_borrow<py::array>(source);
  if (array.ndim() < 1 || array.ndim() > SLA2_TENSOR_MAX_DIMS)
    throw py::value_error(std::string(name) + ": " + std::to_string(array.ndim()) + " axes; expected 1 to 6");
  if (written && !array.writeable()) throw py::value_error(std::string(name) + ": the array is read-only; give one that is not");
  const ElementType type = element_type(array.dtype(), name);
  view_.dtype_code = type.code;
  view_.dtype_bits = type.bits;
  view_.data = const_cast<void*>(array.data());
  view_.ndim = static_cast<int32_t>(array.ndim());
  view_.device_type = SLA2_DEVICE_CPU;
  for (py::ssize_t axis = 0; axis < array.ndim(); ++axis) {
    view_.shape[axis] = array.shape(axis);
    view_.strides[axis] = array.strides(axis) / array.itemsize();
  }
  owner_ = array;
}

void Tensor::take_dlpack(const py::handle& source, const char* name, bool written) {
  using py::literals::operator""_a;
  py::object capsule;
  // On a GPU the call says which stream it uses, the one its tensors are ready on: the producer must not wait for another.
  py::dict how;
  if (py::hasattr(source, "__dlpack_device__") && source.attr("__dlpack_device__")().cast<py::tuple>()[0].cast<int>() == kDLCUDA)
    how["stream"] = -1;
  try {  // a consumer that says which version it reads is given a versioned tensor
    capsule = source.attr("__dlpack__")("max_version"_a = py::make_tuple(DLPACK_MAJOR_VERSION, 0), **how);
  } catch (py::error_already_set& error) {
    if (!error.matches(PyExc_TypeError)) throw;
    capsule = source.attr("__dlpack__")(**how);  // older producers
  }
  sla2_status status = SLA2_E_ARGUMENT;
  if (PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned") != 0) {
    status = sla2_tensor_from_dlpack(
        &view_, static_cast<DLManagedTensorVersioned*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor_versioned")),
        written ? 1 : 0);
  } else if (PyCapsule_IsValid(capsule.ptr(), "dltensor") != 0) {
    status = sla2_tensor_from_dltensor(
        &view_, &static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"))->dl_tensor);
  }
  if (status != SLA2_OK)
    raise(status, std::string(name) + ": this DLPack tensor cannot be read" + (written ? " and written" : "") +
                      "; expected fp32, fp16 or bf16 on the CPU, 1 to 6 axes");
  owner_ = capsule;  // never renamed to "used": its own destructor releases the producer's memory
}

}  // namespace sla2::python
