// SPDX-License-Identifier: Apache-2.0
// Checks on a SentencePiece model before libsentencepiece sees it. Private to the room.
#pragma once
#include <cstddef>
#include <string>
#include <string_view>

namespace sla2::text {

inline constexpr size_t kMaxModelBytes = size_t{256} << 20;  // real ones have 5 MB

/// Throws FILE_FORMAT unless `bytes` is a well-formed ModelProto whose normaliser tables stay inside themselves.
void check_sentencepiece_model(std::string_view bytes, const std::string& where);

}  // namespace sla2::text
