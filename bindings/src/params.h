// SPDX-License-Identifier: Apache-2.0
// Values for the one parameter table, from a dict.
#pragma once
#include <pybind11/pybind11.h>
#include <sla2/params.h>

#include <memory>

namespace sla2::python {

struct ParamsDeleter {
  void operator()(sla2_params* params) const noexcept { sla2_params_destroy(params); }
};
using Params = std::unique_ptr<sla2_params, ParamsDeleter>;

/// {"steps": 20, "prompt": "…", "sigmas": [1, 0.5]}: None is skipped; numbers, text, bools, lists of numbers and paths are taken.
/// "preset" (a mapping or JSON text) is merged first, so that single values win.
[[nodiscard]] Params make_params(const pybind11::dict& values);

/// The table as a list of dicts.
[[nodiscard]] pybind11::list describe_params();

}  // namespace sla2::python
