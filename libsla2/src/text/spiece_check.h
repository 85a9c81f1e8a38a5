// SPDX-License-Identifier: Apache-2.0
// Checks on a SentencePiece model before libsentencepiece sees it. Private to the room.
#pragma once
#include <string>
#include <string_view>

namespace sla2::text {

/// Throws FILE_FORMAT unless `bytes` is a well-formed ModelProto whose normaliser tables stay inside themselves.
void check_sentencepiece_model(std::string_view bytes, const std::string& where);

}  // namespace sla2::text
