// SPDX-License-Identifier: Apache-2.0
// What a file is when it is not safetensors, told from its first bytes.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace sla2::weights {

constexpr size_t kForeignProbeBytes = 512;

/// What describe_foreign says of a sentencepiece model.
constexpr std::string_view kTokenizerText = "a sentencepiece tokenizer (spiece.model), not weights";

/// "" if `head` (the first min(kForeignProbeBytes, file_bytes) bytes) may begin a safetensors file; else what it is and
/// what to do, as the end of a sentence.
std::string describe_foreign(std::span<const std::byte> head, uint64_t file_bytes);

}  // namespace sla2::weights
