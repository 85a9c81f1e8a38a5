// SPDX-License-Identifier: Apache-2.0
// params.h: the parameter table and sets of values.
#include <sla2/params.h>

#include <memory>

#include "api/guard.h"
#include "api/handles.h"
#include "api/struct_size.h"

namespace {

using sla2::api::guard;
using sla2::api::required;

constexpr const char* kInfoName = "sla2_param_info";

static_assert(SLA2_PARAM_INT == static_cast<int>(sla2::config::ParamType::kInt));
static_assert(SLA2_PARAM_FLOAT_LIST == static_cast<int>(sla2::config::ParamType::kFloatList));

sla2_param_info info_of(const sla2::config::ParamRow& row) {
  sla2_param_info info{};
  info.struct_size = sizeof info;
  info.type = static_cast<int32_t>(row.type);
  info.name = row.name;
  info.group = row.group;
  info.help = row.help;
  info.unit = row.unit;
  info.choices = row.choices;
  info.default_text = row.default_text;
  info.minimum = row.minimum;
  info.maximum = row.maximum;
  info.step = row.step;
  info.advanced = row.advanced ? 1 : 0;
  return info;
}

sla2_param_info empty_info() {
  sla2_param_info info{};
  info.name = info.group = info.help = info.unit = info.choices = info.default_text = "";
  return info;
}

}  // namespace

extern "C" {

sla2_status sla2_param_info_init(sla2_param_info* info, uint32_t size) {
  return guard([&] { sla2::api::init_struct(info, size, empty_info(), kInfoName); });
}

uint32_t sla2_param_count(void) { return static_cast<uint32_t>(sla2::config::param_table().size()); }

sla2_status sla2_param_get(uint32_t index, sla2_param_info* info) {
  return guard([&] {
    const auto table = sla2::config::param_table();
    SLA2_CHECK(index < table.size(), SLA2_E_ARGUMENT, "sla2_param_get: index {} is past the last of {} parameters", index,
               table.size());
    sla2::api::write_struct(info, info_of(table[index]), kInfoName);
  });
}

sla2_status sla2_param_find(const char* name, sla2_param_info* info) {
  return guard([&] {
    sla2::api::write_struct(info, info_of(sla2::config::find_param(&required(name, "sla2_param_find", "name"))), kInfoName);
  });
}

sla2_status sla2_params_create(sla2_params** params) {
  return guard([&] { required(params, "sla2_params_create", "params") = std::make_unique<sla2_params>().release(); });
}

void sla2_params_destroy(sla2_params* params) { delete params; }

sla2_status sla2_params_copy(const sla2_params* params, sla2_params** copy) {
  return guard([&] {
    auto made = std::make_unique<sla2_params>(required(params, "sla2_params_copy", "params"));
    required(copy, "sla2_params_copy", "copy") = made.get();
    static_cast<void>(made.release());
  });
}

sla2_status sla2_params_set_text(sla2_params* params, const char* name, const char* value) {
  return guard([&] {
    required(params, "sla2_params_set_text", "params")
        .values.set_text(&required(name, "sla2_params_set_text", "name"), &required(value, "sla2_params_set_text", "value"));
  });
}

sla2_status sla2_params_set_int(sla2_params* params, const char* name, int64_t value) {
  return guard([&] {
    required(params, "sla2_params_set_int", "params")
        .values.set_text(&required(name, "sla2_params_set_int", "name"), std::to_string(value));
  });
}

sla2_status sla2_params_set_float(sla2_params* params, const char* name, double value) {
  return guard([&] {
    required(params, "sla2_params_set_float", "params")
        .values.set_text(&required(name, "sla2_params_set_float", "name"), sla2::config::number_text(value));
  });
}

sla2_status sla2_params_unset(sla2_params* params, const char* name) {
  return guard(
      [&] { required(params, "sla2_params_unset", "params").values.unset(&required(name, "sla2_params_unset", "name")); });
}

sla2_status sla2_params_get_text(const sla2_params* params, const char* name, char* buffer, uint64_t capacity, uint64_t* needed,
                                 int32_t* is_set) {
  return guard([&] {
    const auto& values = required(params, "sla2_params_get_text", "params").values;
    const char* key = &required(name, "sla2_params_get_text", "name");
    const std::string text = values.text(key);
    const bool set = values.is_set(key);
    const uint64_t bytes = sla2::api::copy_text(text, buffer, capacity);
    if (needed != nullptr) *needed = bytes;
    if (is_set != nullptr) *is_set = set ? 1 : 0;
  });
}

sla2_status sla2_params_merge_json(sla2_params* params, const char* json) {
  return guard([&] {
    required(params, "sla2_params_merge_json", "params")
        .values.merge_json(&required(json, "sla2_params_merge_json", "json"), "parameters");
  });
}

uint64_t sla2_params_to_json(const sla2_params* params, char* buffer, uint64_t capacity) {
  return sla2::api::guard_text(buffer, capacity,
                               [&] { return required(params, "sla2_params_to_json", "params").values.to_json(); });
}

}  // extern "C"
