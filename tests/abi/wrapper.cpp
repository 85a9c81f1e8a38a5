// SPDX-License-Identifier: Apache-2.0
// sla2.hpp as C++17: values travel, errors throw with status and text, copies are independent.
#include <cstdio>

#include "sla2/sla2.hpp"

namespace {

int failures = 0;
void check(bool good, const char* what) {
  if (good) return;
  std::printf("failed: %s\n", what);
  ++failures;
}

}  // namespace

int main() {
  sla2::Params params;
  params.set("steps", 12).set("cfg_scale", 4.5).set("prompt", "a boat").set("nan_retry", false);
  sla2::Params copy = params;
  copy.set("steps", 13);
  check(params.text("steps") == "12" && copy.text("steps") == "13", "copies are independent");
  sla2::Params again;
  again.merge(params.json());
  check(again.json() == params.json(), "settings survive JSON");
  try {
    params.set("steps", 0);
    check(false, "out of range throws");
  } catch (const sla2::Exception& error) {
    check(error.status() == SLA2_E_ARGUMENT && std::string(error.what()).find("1 to 1000") != std::string::npos,
          "the error says the range");
  }
  try {
    const sla2::Model model("/no/such/model");
    check(false, "a missing model throws");
  } catch (const sla2::Exception& error) {
    check(error.status() == SLA2_E_FILE_NOT_FOUND, "a missing model is FILE_NOT_FOUND");
  }
  auto config = sla2::Attention::defaults();
  config.mode = SLA2_MODE_SLA2;
  config.heads = 1;
  config.query_tokens = config.key_tokens = 256;
  config.head_dim = 64;
  config.sparsity = 0.5;
  const sla2::Attention attention(config);
  check(attention.blocks().query == 2 && attention.blocks().key == 4 && attention.blocks().max_kept == 2,
        "an attention plan's blocks");
  check(attention.stats().mode_used == SLA2_MODE_SLA2, "and what it will run");
  try {
    config.head_dim = 33;
    const sla2::Attention impossible(config);
    check(false, "an impossible plan throws");
  } catch (const sla2::Exception& error) {
    check(error.status() == SLA2_E_ARGUMENT, "an impossible plan is ARGUMENT");
  }
  check(sla2::system_info().find("\"isa\"") != std::string::npos, "system_info has the instruction set");
  return failures == 0 ? 0 : 1;
}
