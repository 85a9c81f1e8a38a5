// SPDX-License-Identifier: Apache-2.0
// Prefixes, infixes and the few names that swap; tests/python/test_weights.py compares whole models with diffusers' converters.
#include "weights/names.h"
#include "weights_fixture.h"

namespace sla2::weights::test {

TEST_CASE("prefixes and wrappers are stripped from DiT names") {
  for (const std::string prefix : {"", "model.diffusion_model.", "diffusion_model.", "net.", "module."}) {
    const auto scheme = recognise({prefix + "head.modulation", prefix + "time_projection.1.weight"});
    INFO(prefix);
    CHECK(scheme.kind == Kind::kWanDit);
    CHECK(scheme.naming == (prefix.ends_with("diffusion_model.") ? Naming::kComfy : Naming::kOriginal));
    CHECK(canonical_name(prefix + "blocks.3._checkpoint_wrapped_module.self_attn.q.weight", scheme) ==
          "blocks.3.self_attn.q.weight");
    CHECK(canonical_name(prefix + "blocks.3.self_attn.q.scale_weight", scheme).empty());
  }
}

TEST_CASE("diffusers DiT names: norms swap and the top table is the head's") {
  const auto scheme = recognise({"scale_shift_table", "condition_embedder.time_proj.weight"});
  REQUIRE(scheme.naming == Naming::kDiffusers);
  CHECK(canonical_name("scale_shift_table", scheme) == "head.modulation");
  CHECK(canonical_name("blocks.11.scale_shift_table", scheme) == "blocks.11.modulation");
  CHECK(canonical_name("blocks.11.norm2.bias", scheme) == "blocks.11.norm3.bias");
  CHECK(canonical_name("blocks.0.attn2.to_out.0.weight", scheme) == "blocks.0.cross_attn.o.weight");
  CHECK(canonical_name("blocks.0.attn2.norm_added_k.weight", scheme) == "blocks.0.cross_attn.norm_k_img.weight");
  CHECK(canonical_name("condition_embedder.image_embedder.ff.net.0.proj.bias", scheme) == "img_emb.proj.1.bias");
  CHECK(canonical_name("vace_blocks.1.proj_out.weight", scheme) == "vace_blocks.1.after_proj.weight");
  CHECK(canonical_name("blocks.notanumber.norm2.bias", scheme) == "blocks.notanumber.norm2.bias");
  CHECK(canonical_name("blocks.99999999999999999999.norm2.bias", scheme) == "blocks.99999999999999999999.norm2.bias");
}

TEST_CASE("the text encoders are told apart") {
  const std::string q = "encoder.block.{}.layer.0.SelfAttention.q.weight";
  const std::string bias = "encoder.block.{}.layer.0.SelfAttention.relative_attention_bias.weight";
  std::vector<std::string> names{"shared.weight", "encoder.final_layer_norm.weight", fmt::format(fmt::runtime(q), 0),
                                 fmt::format(fmt::runtime(bias), 0), fmt::format(fmt::runtime(q), 1)};
  CHECK(recognise(names).kind == Kind::kT5);
  names.push_back(fmt::format(fmt::runtime(bias), 1));
  CHECK(recognise(names).kind == Kind::kUmt5);
  const auto original = recognise({"token_embedding.weight", "blocks.0.pos_embedding.embedding.weight"});
  CHECK(original.kind == Kind::kUmt5);
  CHECK(canonical_name("blocks.4.ffn.gate.0.weight", original) == "encoder.block.4.layer.1.DenseReluDense.wi_0.weight");
  CHECK(canonical_name("norm.weight", original) == "encoder.final_layer_norm.weight");
  CHECK(canonical_name("spiece_model", original) == "spiece_model");
}

TEST_CASE("LoRAs and strangers") {
  CHECK(recognise({"diffusion_model.blocks.0.self_attn.q.lora_A.weight"}).kind == Kind::kLora);
  CHECK(recognise({"transformer.blocks.0.attn1.to_q.lora_down.weight"}).kind == Kind::kLora);
  CHECK(recognise({"visual.cls_embedding", "visual.patch_embedding.weight"}).kind == Kind::kClip);
  CHECK(recognise({"decoder.1.weight", "decoder.3.conv.0.weight"}).kind == Kind::kTaehv);
  CHECK(recognise({"a", "b"}).kind == Kind::kUnknown);
  CHECK(recognise({}).kind == Kind::kUnknown);
}

}  // namespace sla2::weights::test
