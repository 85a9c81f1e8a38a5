// SPDX-License-Identifier: Apache-2.0
#include "pipeline/disk_check.h"

#include <filesystem>

#include "pipeline/device_choice.h"

namespace sla2::pipeline {

namespace {

namespace fs = std::filesystem;

constexpr uint64_t kHeader = 1 << 12;  // settings and names, at least

/// x, and what the solver remembers of the steps before.
uint64_t latents_kept(const std::string& solver) { return solver == "unipc" ? 4 : solver == "dpmpp_2m" ? 2 : 1; }

/// A file of `bytes` and, while it is written anew, the old one beside it.
void check_file(const std::string& file, uint64_t bytes, bool rewritten, const char* what, const char* parameter) {
  if (file.empty()) return;
  std::error_code unknown;
  const fs::path path = fs::absolute(fs::u8path(file), unknown);
  const fs::space_info disk = fs::space(path.parent_path(), unknown);
  if (unknown) return;  // writing will say what is wrong with the folder
  const bool there = fs::exists(path, unknown);
  const uint64_t needed = bytes * (rewritten && !there ? 2 : 1);
  SLA2_CHECK(
      disk.available >= needed, SLA2_E_FILE_WRITE,
      "{}: No space left on device for the {}: {:.2f} MiB are needed and {:.2f} MiB are free. Free some space, or name a file "
      "on another disk with the parameter {}",
      file, what, mebi(needed), mebi(disk.available), parameter);
}

}  // namespace

void check_disks(const ModelParts& model, const Settings& settings, int64_t tokens) {
  const auto latent = static_cast<uint64_t>(settings.shape.size()) * sizeof(float);
  const auto prompts = static_cast<uint64_t>(tokens * model.encoder_config.d_model) * sizeof(float);
  check_file(settings.checkpoint, latents_kept(settings.solver) * latent + prompts + kHeader, true, "checkpoints", "checkpoint");
  check_file(settings.latent_out, latent + kHeader, false, "finished latent", "latent_out");
}

}  // namespace sla2::pipeline
