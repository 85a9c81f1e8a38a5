// SPDX-License-Identifier: Apache-2.0
// The worker's language, without any work: bytes → lines → requests. Everything here meets hostile input
// (tests/fuzz/fuzz_serve.cpp).
#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace sla2::cli {

inline constexpr int kProtocolVersion = 1;
inline constexpr size_t kLongestLine = 1 << 20;  // bytes; a prompt of 3,000 words takes 20 kB
inline constexpr int kDeepestNesting = 16;       // a request nests four levels
inline constexpr size_t kLongestId = 128;        // bytes of a text id
inline constexpr size_t kMostOutputs = 16;

/// A line that is no request; `id` is the request's where it could be read, else null.
class ProtocolError : public std::runtime_error {
 public:
  ProtocolError(nlohmann::json request_id, const std::string& text) : std::runtime_error(text), id(std::move(request_id)) {}
  nlohmann::json id;
};

/// Cuts a byte stream into lines. An over-long line is reported once and skipped to its end.
class LineSplitter {
 public:
  struct Line {
    std::string text;
    bool too_long = false;
  };
  void feed(std::string_view bytes);
  std::optional<Line> next();

 private:
  std::vector<Line> ready_;
  size_t taken_ = 0;
  std::string partial_;
  bool skipping_ = false;
};

enum class Method { kGenerate, kResume, kCancel, kInfo, kPresets, kParams, kDoctor, kShutdown };

struct Request {
  nlohmann::json id;  ///< text or whole number
  Method method = Method::kShutdown;
  nlohmann::json params = nlohmann::json::object();
};

/// What generate and resume take. A value of `values` is text, number, boolean or list of numbers.
struct JobOrder {
  std::string preset, from, checkpoint, model, pack, lora, vae_precision;
  std::vector<std::pair<std::string, std::string>> values;
  std::vector<std::string> outputs;
  std::string sheet, report;
  std::optional<int64_t> quality, threads, vae_tile;
  bool keep_checkpoint = false, previews = true;
};

Request parse_request(std::string_view line);
JobOrder parse_generate(const Request& request);
JobOrder parse_resume(const Request& request);
/// The id of the job to cancel.
nlohmann::json parse_cancel(const Request& request);
std::string parse_info(const Request& request);

}  // namespace sla2::cli
