// SPDX-License-Identifier: Apache-2.0
// Arrays of Python as views, without a copy: NumPy arrays by the buffer they are, all others by DLPack.
#pragma once
#include <pybind11/pybind11.h>
#include <sla2/tensor.h>

namespace sla2::python {

/// A view and what keeps its memory alive.
class Tensor {
 public:
  /// `name` is for messages; `written`: the library will write to it. Throws what Python would: TypeError, ValueError,
  /// BufferError, or an sla2 exception where the library cannot name the element type or device.
  Tensor(const pybind11::handle& source, const char* name, bool written);
  [[nodiscard]] sla2_tensor* view() noexcept { return &view_; }

 private:
  void take_numpy(const pybind11::handle& source, const char* name, bool written);
  void take_dlpack(const pybind11::handle& source, const char* name, bool written);
  sla2_tensor view_{};
  pybind11::object owner_;
};

}  // namespace sla2::python
