// SPDX-License-Identifier: Apache-2.0
#include "params.h"

#include "errors.h"

namespace py = pybind11;

namespace sla2::python {
namespace {

std::string number_text(const py::handle& value) {
  return py::str(py::repr(py::float_(py::reinterpret_borrow<py::object>(value))));
}

void set_value(sla2_params* params, const std::string& name, const py::handle& value) {
  if (py::isinstance<py::bool_>(value)) {
    require(sla2_params_set_text(params, name.c_str(), value.cast<bool>() ? "true" : "false"));
  } else if (py::isinstance<py::int_>(value)) {
    require(sla2_params_set_int(params, name.c_str(), value.cast<int64_t>()));
  } else if (py::isinstance<py::float_>(value)) {
    require(sla2_params_set_float(params, name.c_str(), value.cast<double>()));
  } else if (py::isinstance<py::list>(value) || py::isinstance<py::tuple>(value)) {
    std::string text;
    for (const py::handle item : value) text += (text.empty() ? "" : ",") + number_text(item);
    require(sla2_params_set_text(params, name.c_str(), text.c_str()));
  } else {  // text, or anything with a path or a number inside (pathlib, NumPy scalars)
    require(sla2_params_set_text(params, name.c_str(), std::string(py::str(value)).c_str()));
  }
}

const char* type_name(int32_t type) {
  switch (type) {
    case SLA2_PARAM_INT: return "int";
    case SLA2_PARAM_FLOAT: return "float";
    case SLA2_PARAM_BOOL: return "bool";
    case SLA2_PARAM_CHOICE: return "choice";
    case SLA2_PARAM_PATH: return "path";
    case SLA2_PARAM_FLOAT_LIST: return "float_list";
    default: return "string";
  }
}

}  // namespace

Params make_params(const py::dict& values) {
  sla2_params* made = nullptr;
  require(sla2_params_create(&made));
  Params params(made);
  if (values.contains("preset") && !values["preset"].is_none()) {
    const py::object preset = values["preset"];
    const std::string text = py::isinstance<py::str>(preset)
                                 ? preset.cast<std::string>()
                                 : std::string(py::str(py::module_::import("json").attr("dumps")(preset)));
    require(sla2_params_merge_json(params.get(), text.c_str()));
  }
  for (const auto& [name, value] : values)
    if (!value.is_none() && name.cast<std::string>() != "preset") set_value(params.get(), name.cast<std::string>(), value);
  return params;
}

py::list describe_params() {
  py::list rows;
  for (uint32_t i = 0; i < sla2_param_count(); ++i) {
    sla2_param_info info;
    require(sla2_param_info_init(&info, sizeof info));
    require(sla2_param_get(i, &info));
    py::dict row;
    row["name"] = info.name;
    row["type"] = type_name(info.type);
    row["group"] = info.group;
    row["help"] = info.help;
    row["unit"] = info.unit;
    row["choices"] = info.type == SLA2_PARAM_CHOICE ? py::str(info.choices).attr("split")("|") : py::object(py::list());
    row["default"] = info.default_text;
    row["minimum"] = info.minimum;
    row["maximum"] = info.maximum;
    row["step"] = info.step;
    row["advanced"] = info.advanced != 0;
    rows.append(row);
  }
  return rows;
}

}  // namespace sla2::python
