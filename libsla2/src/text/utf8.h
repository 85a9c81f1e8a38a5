// SPDX-License-Identifier: Apache-2.0
// UTF-8 in small pieces. Private to the room.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace sla2::text {

inline constexpr char32_t kReplacement = 0xfffd;
inline constexpr char32_t kLastCodePoint = 0x10ffff;

struct Decoded {
  char32_t code_point;
  size_t bytes;  ///< taken; for a broken sequence its longest sound beginning, at least 1
  bool valid;
};
/// The code point at the head of `text` (not empty); shortest form only, no surrogates, up to U+10FFFF (Unicode table 3-7).
Decoded decode_utf8(std::string_view text) noexcept;
void append_utf8(char32_t code_point, std::string& out);
/// Valid UTF-8: every broken sequence becomes one U+FFFD.
std::string repair_utf8(std::string_view text);
/// What the C1 controls 80..9F mean in Windows-1252, as which they are nearly always meant (WHATWG encoding standard).
char32_t windows_1252(char32_t c1) noexcept;

}  // namespace sla2::text
