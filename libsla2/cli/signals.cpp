// SPDX-License-Identifier: Apache-2.0
#include "signals.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>

#include "errors.h"

namespace sla2::cli {

namespace {

// A signal handler can reach only such variables.
volatile std::sig_atomic_t received_signal = 0;
volatile std::sig_atomic_t pipe_end = -1;
constexpr std::array kSignals{SIGINT, SIGTERM, SIGHUP};

void handle(int signal) {
  const int saved = errno;
  if (received_signal != 0) ::_exit(kSignalExit + signal);
  received_signal = signal;
  const char byte = static_cast<char>(signal);
  [[maybe_unused]] const ssize_t written = ::write(pipe_end, &byte, 1);
  errno = saved;
}

void install(void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  ::sigemptyset(&action.sa_mask);
  for (const int signal : kSignals) ::sigaction(signal, &action, nullptr);
}

}  // namespace

SignalWatcher::SignalWatcher(std::function<void(int)> on_first) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) fail(SLA2_E_INTERNAL, "no pipe for signals: {}", errno_text(errno));
  pipe_end = ends[1];
  thread_ = std::thread([read_end = ends[0], call = std::move(on_first)] {
    char byte = 0;
    ssize_t got = 0;
    while ((got = ::read(read_end, &byte, 1)) < 0 && errno == EINTR) {
    }
    if (got == 1 && byte != 0) call(byte);
    ::close(read_end);
  });
  install(handle);
}

SignalWatcher::~SignalWatcher() {
  install(SIG_DFL);
  const char stop = 0;
  [[maybe_unused]] const ssize_t written = ::write(pipe_end, &stop, 1);  // no reader any more after a signal: harmless
  thread_.join();
  ::close(pipe_end);
}

int SignalWatcher::received() { return received_signal; }

}  // namespace sla2::cli
