// SPDX-License-Identifier: Apache-2.0
// HTML 5 section 13.2.5.72 ff. ("character reference state") for text outside of tags. In and out: UTF-8.
#include "text/html.h"

#include <algorithm>
#include <cctype>
#include <cstdint>

#include "text/utf8.h"

namespace sla2::text {
namespace {

constexpr size_t kLongestName = 32;

bool is_noncharacter(char32_t c) { return (c >= 0xfdd0 && c <= 0xfdef) || (c & 0xfffe) == 0xfffe; }

/// What a numeric reference stands for; empty where browsers show nothing.
std::string numeric_character(uint32_t value) {
  std::string text;
  if (value == 0 || value > kLastCodePoint || (value >= 0xd800 && value <= 0xdfff)) {
    append_utf8(kReplacement, text);
  } else if (value >= 0x80 && value <= 0x9f) {
    append_utf8(windows_1252(value), text);
  } else if (value == '\r' || (value >= 0x20 && value != 0x7f && !is_noncharacter(value)) || value == '\t' || value == '\n' ||
             value == '\f') {
    append_utf8(value, text);
  }
  return text;
}

/// Parse "#123;" or "#x1F;" at the head of `rest`. @return characters taken, 0 if it is none.
size_t take_number(std::string_view rest, bool semicolon_required, std::string& out) {
  const bool hexadecimal = rest.size() > 1 && (rest[1] == 'x' || rest[1] == 'X');
  const size_t first = hexadecimal ? 2 : 1;
  size_t at = first;
  uint32_t value = 0;
  for (; at < rest.size(); ++at) {
    const auto c = static_cast<unsigned char>(rest[at]);
    if (hexadecimal ? std::isxdigit(c) == 0 : std::isdigit(c) == 0) break;
    const uint32_t digit = std::isdigit(c) != 0 ? c - '0' : (std::tolower(c) - 'a' + 10);
    value = std::min<uint32_t>(value * (hexadecimal ? 16 : 10) + digit, kLastCodePoint + 1);  // saturates: no overflow
  }
  if (at == first) return 0;
  const bool closed = at < rest.size() && rest[at] == ';';
  if (!closed && semicolon_required) return 0;
  out += numeric_character(value);
  return at + (closed ? 1 : 0);
}

/// Parse "name;" — or, where allowed, the longest known name without ';'.
size_t take_name(std::string_view rest, bool semicolon_required, std::string& out) {
  size_t length = 0;
  while (length < rest.size() && length < kLongestName && std::isalnum(static_cast<unsigned char>(rest[length])) != 0) ++length;
  const std::string_view word = rest.substr(0, length);
  const bool closed = length < rest.size() && rest[length] == ';';
  if (const char32_t whole = closed ? named_character(word) : 0; whole != 0) {
    append_utf8(whole, out);
    return length + 1;
  }
  if (semicolon_required) return 0;
  for (size_t prefix = length; prefix > 1; --prefix) {
    if (!name_may_lack_semicolon(word.substr(0, prefix))) continue;
    append_utf8(named_character(word.substr(0, prefix)), out);
    return prefix;
  }
  return 0;
}

}  // namespace

std::string unescape_html(std::string_view text, HtmlRule rule) {
  const bool semicolon_required = rule == HtmlRule::kOnlyWithSemicolon;
  std::string out;
  out.reserve(text.size());
  size_t at = 0;
  while (at < text.size()) {
    const size_t ampersand = std::min(text.find('&', at), text.size());
    out += text.substr(at, ampersand - at);
    if (ampersand == text.size()) break;
    const std::string_view rest = text.substr(ampersand + 1);
    const size_t taken = rest.empty()          ? 0
                         : rest.front() == '#' ? take_number(rest, semicolon_required, out)
                                               : take_name(rest, semicolon_required, out);
    if (taken == 0) out += '&';
    at = ampersand + 1 + taken;
  }
  return out;
}

}  // namespace sla2::text
