// SPDX-License-Identifier: Apache-2.0
// RAII for the C door's handles, and its text-into-buffer functions as std::string.
#pragma once
#include <sla2/attention.h>
#include <sla2/generate.h>

#include <memory>
#include <string>

#include "errors.h"

namespace sla2::cli {

template <auto kFree>
struct FreeWith {
  template <typename T>
  void operator()(T* handle) const noexcept {
    kFree(handle);
  }
};

using Params = std::unique_ptr<sla2_params, FreeWith<sla2_params_destroy>>;
using Model = std::unique_ptr<sla2_model, FreeWith<sla2_model_close>>;
using Job = std::unique_ptr<sla2_job, FreeWith<sla2_job_destroy>>;
using Attention = std::unique_ptr<sla2_attention, FreeWith<sla2_attention_destroy>>;

/// text_of([&](char* buffer, uint64_t capacity) { return bytes needed; })
template <typename Fill>
std::string text_of(Fill&& fill) {
  std::string text;
  for (uint64_t needed = fill(nullptr, uint64_t{0}); needed > text.size() + 1;) {
    text.resize(needed - 1);
    needed = fill(text.data(), text.size() + 1);  // may have grown between the two calls
    if (needed <= text.size() + 1) text.resize(needed == 0 ? 0 : needed - 1);
  }
  return text;
}

Params make_params();
Params copy_params(const sla2_params* params);
std::string params_json(const sla2_params* params);
/// Value or table default.
std::string param_text(const sla2_params* params, const char* name);
bool param_is_set(const sla2_params* params, const char* name);
/// Only the values that sla2_model_open() looks at.
Params model_params(const sla2_params* params);
/// Every row of the table.
template <typename Visit>
void for_each_param(Visit&& visit) {
  for (uint32_t index = 0; index < sla2_param_count(); ++index) {
    sla2_param_info info;
    require(sla2_param_info_init(&info, sizeof info));
    require(sla2_param_get(index, &info));
    visit(info);
  }
}

}  // namespace sla2::cli
