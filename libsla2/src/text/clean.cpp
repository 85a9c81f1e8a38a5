// SPDX-License-Identifier: Apache-2.0
// Wan's prompt cleaning: what ftfy.fix_text does with its default settings except the guessing of wrong encodings, then HTML
// references twice, then white space collapsed. In: any bytes. Out: valid UTF-8, NFC up to references.
#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <memory>

#include "text/html.h"
#include "text/text.h"
#include "text/utf8.h"

namespace sla2::text {
namespace {

struct FreeMemory {
  void operator()(utf8proc_uint8_t* bytes) const { std::free(bytes); }
};

/// utf8proc_map of valid UTF-8; the text itself should the library fail (out of memory).
std::string mapped(std::string_view text, int options) {
  utf8proc_uint8_t* bytes = nullptr;
  const utf8proc_ssize_t length =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()), static_cast<utf8proc_ssize_t>(text.size()), &bytes,
                   static_cast<utf8proc_option_t>(options));
  const std::unique_ptr<utf8proc_uint8_t, FreeMemory> owner(bytes);
  return length < 0 ? std::string(text) : std::string(reinterpret_cast<const char*>(bytes), static_cast<size_t>(length));
}
std::string nfc(std::string_view text) { return mapped(text, UTF8PROC_STABLE | UTF8PROC_COMPOSE); }
std::string nfkc(std::string_view text) { return mapped(text, UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT); }

bool is_removed_control(char32_t c) {
  return c < 0x09 || c == 0x0b || (c >= 0x0e && c < 0x20) || c == 0x7f || (c >= 0x206a && c < 0x2070) || c == 0xfeff ||
         (c >= 0xfff9 && c < 0xfffd);
}

/// Python's str.isspace, which Wan's "\s+" uses.
bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

/// Letters that were joined for typesetting; NFKC takes them apart. U+0149 keeps its own rule: ʼn, whose mark is then straight.
bool is_ligature(char32_t c) {
  return c == 0x132 || c == 0x133 || c == 0x149 || (c >= 0x1c4 && c <= 0x1cc) || (c >= 0x1f1 && c <= 0x1f3) ||
         (c >= 0xfb00 && c <= 0xfb06);
}

void append_plain(char32_t c, std::string& out) {
  c = windows_1252(c);
  if (is_removed_control(c)) return;
  if (is_ligature(c) || (c > 0xff00 && c < 0xfff0)) {  // full-width and half-width forms
    std::string single;
    append_utf8(c, single);
    if (c == 0xfb05) {
      out += "\u017ft";  // ftfy keeps the long s here
    } else {
      for (const char byte : nfkc(single)) out += byte;
    }
    return;
  }
  if (c == 0x2bc || (c >= 0x2018 && c <= 0x201b)) {
    out += '\'';
  } else if (c >= 0x201c && c <= 0x201f) {
    out += '"';
  } else {
    append_utf8(c, out);
  }
}

/// Length of a terminal colour sequence (ESC [ digits and semicolons, letter) at the head of `text`, or 0.
size_t terminal_escape(std::string_view text) {
  if (text.substr(0, 2) != "\x1b[") return 0;
  const size_t end = text.find_first_not_of("0123456789;", 2);
  if (end == std::string_view::npos) return 0;
  const char last = text[end];
  return (last >= 'a' && last <= 'z') || (last >= 'A' && last <= 'Z') ? end + 1 : 0;
}

std::string plain_characters(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    if (const size_t escape = terminal_escape(text); escape != 0) {
      text.remove_prefix(escape);
      continue;
    }
    const Decoded decoded = decode_utf8(text);
    append_plain(decoded.code_point, out);
    text.remove_prefix(decoded.bytes);
  }
  return out;
}

/// One line as ftfy sees it: references are resolved unless the line looks like HTML source; repeated until nothing changes.
std::string fixed_line(std::string line) {
  constexpr int kMaxRounds = 8;  // "&amp;amp;amp;…" sheds one layer a round; nobody means more
  const bool looks_like_source = line.find('<') != std::string::npos;
  for (int round = 0; round < kMaxRounds; ++round) {
    std::string next = looks_like_source ? line : unescape_html(line, HtmlRule::kOnlyWithSemicolon);
    next = nfc(plain_characters(next));
    if (next == line) break;
    line = std::move(next);
  }
  return line;
}

std::string fixed_lines(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n', 0), text.size() - 1) + 1;
    out += fixed_line(std::string(text.substr(0, end)));
    text.remove_prefix(end);
  }
  return out;
}

std::string single_spaced(std::string_view text) {
  std::string out;
  bool gap = false;
  while (!text.empty()) {
    const Decoded decoded = decode_utf8(text);
    if (is_space(decoded.code_point)) {
      gap = !out.empty();
    } else {
      if (gap) out += ' ';
      gap = false;
      out += text.substr(0, decoded.bytes);
    }
    text.remove_prefix(decoded.bytes);
  }
  return out;
}

}  // namespace

std::string clean_prompt(std::string_view prompt) {
  std::string text = fixed_lines(repair_utf8(prompt));
  for (int pass = 0; pass < 2; ++pass) text = unescape_html(text, HtmlRule::kBrowser);
  return single_spaced(text);
}

}  // namespace sla2::text
