// SPDX-License-Identifier: Apache-2.0
// Decoding after Unicode 15 table 3-7 "Well-Formed UTF-8 Byte Sequences"; repair after the "maximal subpart" practice.
#include "text/utf8.h"

#include <array>

#include "text/text.h"

namespace sla2::text {

Decoded decode_utf8(std::string_view text) noexcept {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return {lead, 1, true};
  const size_t length = lead >= 0xc2 && lead <= 0xdf   ? 2
                        : lead >= 0xe0 && lead <= 0xef ? 3
                        : lead >= 0xf0 && lead <= 0xf4 ? 4
                                                       : 0;
  if (length == 0) return {kReplacement, 1, false};
  char32_t code_point = lead & (0x7fu >> length);
  for (size_t i = 1; i < length; ++i) {
    // the second byte's range rules out long forms, surrogates and numbers above U+10FFFF
    const unsigned char low = i == 1 && lead == 0xe0 ? 0xa0 : i == 1 && lead == 0xf0 ? 0x90 : 0x80;
    const unsigned char high = i == 1 && lead == 0xed ? 0x9f : i == 1 && lead == 0xf4 ? 0x8f : 0xbf;
    if (i >= text.size() || byte(i) < low || byte(i) > high) return {kReplacement, i, false};
    code_point = (code_point << 6) | (byte(i) & 0x3fu);
  }
  return {code_point, length, true};
}

void append_utf8(char32_t code_point, std::string& out) {
  const auto put = [&](char32_t bits) { out += static_cast<char>(static_cast<unsigned char>(bits)); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xc0 | (code_point >> 6));
    put(0x80 | (code_point & 0x3f));
  } else if (code_point < 0x10000) {
    put(0xe0 | (code_point >> 12));
    put(0x80 | ((code_point >> 6) & 0x3f));
    put(0x80 | (code_point & 0x3f));
  } else {
    put(0xf0 | (code_point >> 18));
    put(0x80 | ((code_point >> 12) & 0x3f));
    put(0x80 | ((code_point >> 6) & 0x3f));
    put(0x80 | (code_point & 0x3f));
  }
}

std::string repair_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const Decoded decoded = decode_utf8(text);
    append_utf8(decoded.code_point, out);
    text.remove_prefix(decoded.bytes);
  }
  return out;
}

char32_t windows_1252(char32_t c1) noexcept {
  constexpr std::array<uint16_t, 32> kMeanings = {
      0x20ac, 0x81,   0x201a, 0x192,  0x201e, 0x2026, 0x2020, 0x2021, 0x2c6, 0x2030, 0x160, 0x2039, 0x152, 0x8d, 0x17d, 0x8f,
      0x90,   0x2018, 0x2019, 0x201c, 0x201d, 0x2022, 0x2013, 0x2014, 0x2dc, 0x2122, 0x161, 0x203a, 0x153, 0x9d, 0x17e, 0x178};
  return c1 >= 0x80 && c1 <= 0x9f ? kMeanings[c1 - 0x80] : c1;
}

bool is_valid_utf8(std::string_view text) noexcept {
  while (!text.empty()) {
    const Decoded decoded = decode_utf8(text);
    if (!decoded.valid) return false;
    text.remove_prefix(decoded.bytes);
  }
  return true;
}

}  // namespace sla2::text
