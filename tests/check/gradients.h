// SPDX-License-Identifier: Apache-2.0
// dir=bwd: the library's backward on a case against the oracle's, gradient by gradient.
#pragma once
#include <map>

#include "judge.h"
#include "subject.h"

namespace sla2::check {

/// One gradient as the library lays it out: dQ [B,H,N_q,D], dK, dV [B,H_kv,N_k,D], parameters as in attention.h.
struct Gradient {
  std::string name;
  Element type;
  std::vector<double> values;
};

/// Inputs in the case's layout, parameters as the library shares them between heads and batches, and the truth.
class GradientSubject {
 public:
  /// judged: with the truth; else there is only enough to run it, for timing.
  explicit GradientSubject(const Case& c, bool judged = true);
  ~GradientSubject();
  GradientSubject(const GradientSubject&) = delete;
  GradientSubject& operator=(const GradientSubject&) = delete;

  struct Result {
    std::string text;                          ///< a refusal, or what the guards saw
    bool unsupported = false;                  ///< the refusal says that it is not built
    std::vector<std::vector<std::byte>> bits;  ///< in the order of truth()
    double seconds = 0;
  };
  /// given: out and lse are passed (the oracle's, in fp32); else the library computes them again. threads: as Subject::run.
  [[nodiscard]] Result run(const Target& target, int threads, unsigned char poison, bool given);
  /// Seconds of each of `repeats` calls after one to warm up.
  [[nodiscard]] std::vector<double> time(const Target& target, int threads, int repeats);
  /// Of the pairs of blocks.
  [[nodiscard]] double kept_share() const;
  [[nodiscard]] const Case& test() const;
  [[nodiscard]] double largest_lse() const;
  [[nodiscard]] const std::vector<Gradient>& truth() const;
  /// Plain code's gradients, from its own softmax or from what forward returned; and its largest errors under other signs of
  /// dO's rows and channels.
  [[nodiscard]] const std::vector<Gradient>& plain(Arithmetic arithmetic, bool given);
  [[nodiscard]] const std::vector<double>& plain_errors(Arithmetic arithmetic, bool given);

 private:
  struct Memory;
  std::unique_ptr<Memory> memory_;
};

[[nodiscard]] Verdict check_gradients(GradientSubject& subject, const std::vector<int>& threads, const Target& target);

}  // namespace sla2::check
