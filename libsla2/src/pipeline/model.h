// SPDX-License-Identifier: Apache-2.0
// An opened model: which files, what they hold, which defaults they bring. Only headers have been read.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "config/model_config.h"
#include "pipeline/pipeline.h"
#include "text/text.h"
#include "weights/weights.h"

namespace sla2::pipeline {

struct ModelParts {
  std::string name, path;
  std::shared_ptr<const weights::Checkpoint> dit, vae, text_encoder;
  std::string tokenizer;  ///< explicit path, "" : beside the encoder
  config::DitConfig dit_config;
  config::VaeConfig vae_config;
  text::EncoderConfig encoder_config;
  std::string dit_digest, vae_digest, encoder_digest;
  config::ParamSet defaults;           ///< from model.json
  std::vector<float> preview_factors;  ///< VAE config key "latent_rgb_factors"; empty: the published ones
};

class OpenModel final : public Model {
 public:
  explicit OpenModel(ModelParts parts) : parts_(std::move(parts)) {}
  [[nodiscard]] const ModelParts& parts() const noexcept { return parts_; }
  [[nodiscard]] std::string describe() const override;

 private:
  ModelParts parts_;
};

}  // namespace sla2::pipeline
