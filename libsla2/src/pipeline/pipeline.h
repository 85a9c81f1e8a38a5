// SPDX-License-Identifier: Apache-2.0
// The door of pipeline: open a model, start a job, hear of its progress, receive frames. api/ wraps it for C.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "config/params/params.h"
#include "core/core.h"

namespace sla2::device {
class Gpu;
}

namespace sla2::pipeline {

/// Opened and cross-checked from headers alone; weights are loaded by jobs. Immutable; share freely.
class Model {
 public:
  /// A folder with model.json, a diffusers folder, or a DiT file (then `params` names "vae" and "text_encoder").
  /// Throws ARGUMENT | FILE_* | MODEL_MISMATCH | VERSION | UNSUPPORTED.
  static std::shared_ptr<const Model> open(const std::string& path, const config::ParamSet& params);
  virtual ~Model() = default;
  [[nodiscard]] virtual std::string describe() const = 0;  ///< JSON
};

/// What a file or folder is, from headers, as JSON: a model with model.json by its parts, everything else by weights::identify.
/// Throws FILE_* | MODEL_MISMATCH | VERSION | UNSUPPORTED.
std::string file_info(const std::string& path);

enum class Phase : int32_t { kLoad = 1, kText = 2, kSample = 3, kDecode = 4, kDone = 5 };

struct Progress {
  Phase phase = Phase::kLoad;
  int step = 0, steps = 0;  ///< finished and all units of this phase
  double fraction = 0;      ///< of the whole job
  double elapsed = 0;       ///< seconds
  double left = -1;         ///< seconds, negative: not known yet
  std::string message;
};

/// RGB, 8 bits, rows from the top, tightly packed; `rgb` valid during the call.
struct Frames {
  int width = 0, height = 0, first = 0, count = 0, total = 0;
  const uint8_t* rgb = nullptr;
  double fps = 0;
};

/// Called on the job's thread, one at a time, with no lock held. An empty member is skipped.
struct Callbacks {
  std::function<void(const Progress&)> on_progress;
  std::function<void(const Frames&, int step)> on_preview;
  std::function<sla2_status(const Frames&)> on_frames;
};

struct Outcome {
  sla2_status status = SLA2_OK;
  std::string text;
};

/// A running generation on its own thread. cancel() and request_checkpoint() from any thread.
class Job {
 public:
  /// Check the settings and the memory plan, then start. Throws ARGUMENT | MEMORY | MODEL_MISMATCH | DEVICE before any heavy
  /// load. `stand_in`: for tests; takes the place of the GPU that the parameter device names, and outlives the job.
  static std::unique_ptr<Job> start(std::shared_ptr<const Model> model, const config::ParamSet& params, Callbacks callbacks,
                                    device::Gpu* stand_in = nullptr);
  /// Go on from a checkpoint. `changes` may differ from what was saved only where the result does not depend on it.
  static std::unique_ptr<Job> resume(std::shared_ptr<const Model> model, const std::string& checkpoint,
                                     const config::ParamSet& changes, Callbacks callbacks);
  virtual ~Job() = default;  ///< cancels if running, waits
  virtual void cancel() noexcept = 0;
  virtual void request_checkpoint() noexcept = 0;
  virtual const Outcome& wait() = 0;
  /// The calling thread is the job's own, as in its callbacks: it must neither wait for the job nor destroy it.
  [[nodiscard]] virtual bool runs_here() const noexcept = 0;
  [[nodiscard]] virtual std::string report() const = 0;       ///< JSON
  [[nodiscard]] virtual std::string memory_plan() const = 0;  ///< text
};

/// Values saved in a checkpoint, "model" included.
config::ParamSet checkpoint_params(const std::string& path);

}  // namespace sla2::pipeline
