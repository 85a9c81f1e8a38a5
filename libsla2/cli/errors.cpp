// SPDX-License-Identifier: Apache-2.0
#include "errors.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <numeric>
#include <system_error>
#include <vector>

namespace sla2::cli {

namespace {

struct ExitRow {
  ExitCode code;
  const char* meaning;
};

constexpr std::array kExitRows{
    ExitRow{ExitCode::kOk, "done"},
    ExitRow{ExitCode::kUsage, "wrong argument or combination of arguments"},
    ExitRow{ExitCode::kFileNotFound, "a file or folder is not there"},
    ExitRow{ExitCode::kFileRead, "a file cannot be read"},
    ExitRow{ExitCode::kFileWrite, "an output cannot be written: permission, full disk"},
    ExitRow{ExitCode::kFileFormat, "a file is truncated, corrupt or not what it claims to be"},
    ExitRow{ExitCode::kMemory, "the job does not fit into memory"},
    ExitRow{ExitCode::kModelMismatch, "sound files that do not belong together"},
    ExitRow{ExitCode::kUnsupported, "this version or this machine cannot do it"},
    ExitRow{ExitCode::kNumeric, "NaN or infinity during sampling"},
    ExitRow{ExitCode::kCancelled, "cancelled by a request other than a signal"},
    ExitRow{ExitCode::kDevice, "the device failed"},
    ExitRow{ExitCode::kInternal, "a bug in sla2; please report it"},
    ExitRow{ExitCode::kHangup, "the terminal was closed (SIGHUP); the checkpoint is resumable"},
    ExitRow{ExitCode::kInterrupted, "interrupted by Ctrl-C; the checkpoint is resumable"},
    ExitRow{ExitCode::kTerminated, "stopped by SIGTERM; the checkpoint is resumable"},
};

}  // namespace

ExitCode exit_code_of(sla2_status status) {
  switch (status) {
    case SLA2_OK: return ExitCode::kOk;
    case SLA2_E_ARGUMENT: return ExitCode::kUsage;
    case SLA2_E_FILE_NOT_FOUND: return ExitCode::kFileNotFound;
    case SLA2_E_FILE_READ: return ExitCode::kFileRead;
    case SLA2_E_FILE_WRITE: return ExitCode::kFileWrite;
    case SLA2_E_FILE_FORMAT: return ExitCode::kFileFormat;
    case SLA2_E_MEMORY: return ExitCode::kMemory;
    case SLA2_E_MODEL_MISMATCH: return ExitCode::kModelMismatch;
    case SLA2_E_VERSION:
    case SLA2_E_UNSUPPORTED: return ExitCode::kUnsupported;
    case SLA2_E_NUMERIC: return ExitCode::kNumeric;
    case SLA2_E_CANCELLED: return ExitCode::kCancelled;
    case SLA2_E_DEVICE: return ExitCode::kDevice;
    default: return ExitCode::kInternal;
  }
}

std::string exit_code_help() {
  std::string text;
  for (const ExitRow& row : kExitRows) text += fmt::format("  {:>3}  {}\n", static_cast<int>(row.code), row.meaning);
  return text;
}

void require(sla2_status status) {
  if (status == SLA2_OK) return;
  const std::string text = sla2_last_error();
  throw CliError(status, text.empty() ? sla2_status_name(status) : text);
}

sla2_status status_of_errno(int error, bool writing) {
  if (writing) return error == ENOMEM ? SLA2_E_MEMORY : SLA2_E_FILE_WRITE;
  if (error == ENOENT || error == ENOTDIR) return SLA2_E_FILE_NOT_FOUND;
  return error == ENOMEM ? SLA2_E_MEMORY : SLA2_E_FILE_READ;
}

std::string errno_text(int error) {
  std::string text = std::generic_category().message(error);
  switch (error) {
    case ENOSPC:
    case EDQUOT: return text + "; free some space or write to another disk with -o";
    case EACCES:
    case EPERM:
    case EROFS: return text + "; choose a folder you may write to with -o";
    case ENOENT:
    case ENOTDIR: return text + "; check the path";
    default: return text;
  }
}

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

}  // namespace sla2::cli
