// SPDX-License-Identifier: Apache-2.0
// The tokenizer's door. Input: two bytes n, n bytes of prompt, the rest a SentencePiece model. Cleaning must give valid
// UTF-8 without double spaces; a model is refused with sla2::Error or gives ids inside its vocabulary.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "text/text.h"

namespace {

constexpr size_t kLengthBytes = 2;
constexpr int kMaxTokens = 64;

void check_clean(const std::string& clean) {
  if (!sla2::text::is_valid_utf8(clean)) std::abort();
  if (clean.find("  ") != std::string::npos || clean.starts_with(' ') || clean.ends_with(' ')) std::abort();
}

void check_ids(const sla2::text::Tokenizer& tokenizer, const std::string& prompt) {
  int dropped = 0;
  const auto ids = tokenizer.encode(prompt, kMaxTokens, &dropped);
  if (ids.empty() || ids.size() > kMaxTokens || dropped < 0) std::abort();
  for (const int32_t id : ids) {
    if (id < 0 || id >= tokenizer.vocabulary_size()) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < kLengthBytes) return 0;
  const std::string_view input(reinterpret_cast<const char*>(data) + kLengthBytes, size - kLengthBytes);
  const size_t length = static_cast<size_t>(data[0]) | (static_cast<size_t>(data[1]) << 8);
  const std::string prompt = sla2::text::clean_prompt(input.substr(0, length));
  check_clean(prompt);
  if (length >= input.size()) return 0;
  try {
    const auto tokenizer = sla2::text::Tokenizer::from_bytes(input.substr(length), "fuzzed model");
    for (const std::string& text : {prompt, std::string("a red ball, \xe4\xb8\x80\xe5\x8f\xaa \xf0\x9f\x8e\x88")})
      check_ids(*tokenizer, text);
  } catch (const sla2::Error& error) {
    if (error.status() == SLA2_E_INTERNAL) std::abort();
  }
  return 0;
}
