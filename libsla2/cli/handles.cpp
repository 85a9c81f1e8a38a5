// SPDX-License-Identifier: Apache-2.0
#include "handles.h"

#include <string_view>

namespace sla2::cli {

Params make_params() {
  sla2_params* params = nullptr;
  require(sla2_params_create(&params));
  return Params(params);
}

Params copy_params(const sla2_params* params) {
  sla2_params* copy = nullptr;
  require(sla2_params_copy(params, &copy));
  return Params(copy);
}

std::string params_json(const sla2_params* params) {
  return text_of([&](char* buffer, uint64_t capacity) { return sla2_params_to_json(params, buffer, capacity); });
}

std::string param_text(const sla2_params* params, const char* name) {
  return text_of([&](char* buffer, uint64_t capacity) {
    uint64_t needed = 0;
    require(sla2_params_get_text(params, name, buffer, capacity, &needed, nullptr));
    return needed;
  });
}

bool param_is_set(const sla2_params* params, const char* name) {
  int32_t is_set = 0;
  require(sla2_params_get_text(params, name, nullptr, 0, nullptr, &is_set));
  return is_set != 0;
}

Params model_params(const sla2_params* params) {
  Params chosen = make_params();
  for_each_param([&](const sla2_param_info& info) {
    const std::string_view name = info.name;
    const bool concerns_model = std::string_view(info.group) == "Model" || name == "memory_limit";
    if (concerns_model && name != "model" && param_is_set(params, info.name)) {
      require(sla2_params_set_text(chosen.get(), info.name, param_text(params, info.name).c_str()));
    }
  });
  return chosen;
}

}  // namespace sla2::cli
