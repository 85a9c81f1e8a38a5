// SPDX-License-Identifier: Apache-2.0
// HTML character references in plain text. Private to the room.
#pragma once
#include <string>
#include <string_view>

namespace sla2::text {

/// Code point of a name without & and ; — 0 if unknown.
char32_t named_character(std::string_view name) noexcept;
/// The Latin-1 names may stand without ';' (HTML 5 keeps this for old pages).
bool name_may_lack_semicolon(std::string_view name) noexcept;

enum class HtmlRule { kBrowser, kOnlyWithSemicolon };
/// One pass over valid UTF-8; what comes out is not looked at again.
std::string unescape_html(std::string_view text, HtmlRule rule);

}  // namespace sla2::text
