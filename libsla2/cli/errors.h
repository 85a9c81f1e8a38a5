// SPDX-License-Identifier: Apache-2.0
// How the tool fails: one exception that carries an exit code and a text for people, and the table of exit codes.
#pragma once
#include <fmt/format.h>
#include <sla2/base.h>

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace sla2::cli {

/// Exit codes of the tool; documented in docs/cli.md and in `sla2 --help`. Never renumbered.
enum class ExitCode : int {
  kOk = 0,
  kUsage = 2,
  kFileNotFound = 3,
  kFileRead = 4,
  kFileWrite = 5,
  kFileFormat = 6,
  kMemory = 7,
  kModelMismatch = 8,
  kUnsupported = 9,
  kNumeric = 10,
  kCancelled = 11,
  kDevice = 12,
  kInternal = 70,
  kHangup = 129,       ///< 128 + SIGHUP
  kInterrupted = 130,  ///< 128 + SIGINT, as shells expect
  kTerminated = 143,   ///< 128 + SIGTERM
};

ExitCode exit_code_of(sla2_status status);
/// The lines "  2  wrong argument …" for --help.
std::string exit_code_help();

class CliError : public std::runtime_error {
 public:
  CliError(sla2_status status, const std::string& text) : std::runtime_error(text), status_(status) {}
  [[nodiscard]] sla2_status status() const noexcept { return status_; }

 private:
  sla2_status status_;
};

template <typename... Args>
[[noreturn]] void fail(sla2_status status, fmt::format_string<Args...> format, Args&&... args) {
  throw CliError(status, fmt::format(format, std::forward<Args>(args)...));
}

/// Turn a failed library call into CliError with the library's own words.
void require(sla2_status status);

/// Status of a failed system call: which kind of file trouble an errno is. `writing`: the call was to create or write.
sla2_status status_of_errno(int error, bool writing);
/// "No space left on device" and, where there is one, the remedy.
std::string errno_text(int error);

/// The candidate nearest to a mistyped word, "" if none is near.
template <typename Range>
std::string nearest(std::string_view word, const Range& candidates);
size_t edit_distance(std::string_view a, std::string_view b);

template <typename Range>
std::string nearest(std::string_view word, const Range& candidates) {
  constexpr size_t kLongestTypo = 64;  // nobody mistypes more, and the distance is quadratic
  std::string best;
  if (word.size() > kLongestTypo) return best;
  size_t best_distance = std::max<size_t>(2, word.size() / 3) + 1;
  for (const auto& candidate : candidates) {
    const size_t distance = edit_distance(word, candidate);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

}  // namespace sla2::cli
