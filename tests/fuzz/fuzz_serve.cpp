// SPDX-License-Identifier: Apache-2.0
// The worker's protocol: any bytes, in any pieces, become lines, and any line a request or a ProtocolError.
// The first input byte says how large the pieces are; the lines must not depend on it.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "cli/serve_protocol.h"

namespace {

using sla2::cli::LineSplitter;

std::vector<LineSplitter::Line> split(std::string_view bytes, size_t piece) {
  LineSplitter splitter;
  std::vector<LineSplitter::Line> lines;
  for (size_t at = 0; at < bytes.size(); at += piece) {
    splitter.feed(bytes.substr(at, piece));
    while (auto line = splitter.next()) lines.push_back(std::move(*line));
  }
  return lines;
}

void require(bool condition) {
  if (!condition) std::abort();
}

void check_request(std::string_view line) {
  using namespace sla2::cli;
  try {
    const Request request = parse_request(line);
    require(request.id.is_string() || request.id.is_number_integer());
    require(request.params.is_object());
    switch (request.method) {
      case Method::kGenerate: {
        const JobOrder order = parse_generate(request);
        for (const auto& [name, value] : order.values) require((name + value).find('\0') == std::string::npos);
        require(order.outputs.size() <= kMostOutputs && order.checkpoint.empty());
        break;
      }
      case Method::kResume: require(!parse_resume(request).checkpoint.empty()); break;
      case Method::kCancel: require(!parse_cancel(request).is_null()); break;
      case Method::kInfo: require(!parse_info(request).empty()); break;
      default: break;
    }
  } catch (const ProtocolError& error) {
    require(error.id.is_null() || error.id.is_string() || error.id.is_number_integer());
    require(error.what()[0] != '\0');
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  const std::vector<LineSplitter::Line> whole = split(bytes, std::max<size_t>(1, bytes.size()));
  const std::vector<LineSplitter::Line> pieces = split(bytes, size_t{data[0]} % 32 + 1);
  require(whole.size() == pieces.size());
  for (size_t i = 0; i < whole.size(); ++i) {
    require(whole[i].text == pieces[i].text && whole[i].too_long == pieces[i].too_long);
    check_request(whole[i].text);
  }
  check_request(bytes);  // a line need not come from the splitter
  return 0;
}
