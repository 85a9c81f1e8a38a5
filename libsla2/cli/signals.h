// SPDX-License-Identifier: Apache-2.0
// Ctrl-C and SIGTERM: the first calls a function on an ordinary thread, the second ends the process at once.
#pragma once
#include <functional>
#include <thread>

namespace sla2::cli {

inline constexpr int kSignalExit = 128;  // shells report 128 + signal

class SignalWatcher {
 public:
  /// One at a time per process. on_first runs on a thread of the watcher, not in the handler.
  explicit SignalWatcher(std::function<void(int signal)> on_first);
  ~SignalWatcher();
  SignalWatcher(const SignalWatcher&) = delete;
  SignalWatcher& operator=(const SignalWatcher&) = delete;
  /// The signal that came, 0 if none.
  [[nodiscard]] static int received();

 private:
  std::thread thread_;
};

}  // namespace sla2::cli
