// SPDX-License-Identifier: Apache-2.0
// Whole attention calls on a GPU, timed.
#pragma once
#include <memory>
#include <string>

#include "timer.h"

namespace sla2::gpu_check {

struct Shape {
  int64_t tokens = 0, heads = 0, dim = 0;
  bool operator==(const Shape&) const = default;
};
struct Question {
  Shape shape;
  double sparsity = 0;  ///< 0: mode full; else sla2 with learned weights for each head
  int bits = 16, repeats = 5;
  bool fp8_values = false, kernels = false;  ///< kernels: time them one by one, in calls of their own
};

/// Keeps a shape's tensors between questions.
class Bench {
 public:
  Bench(check::TestGpu& gpu, int number);  ///< number of a real GPU, or -1
  ~Bench();
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;
  /// A line of JSON: what was asked, {"ms": [...]} of whole calls, medians of kernels; or {"refused": why}.
  [[nodiscard]] std::string answer(const Question& question);

 private:
  struct Tensors;
  void make_tensors(const Shape& shape);
  check::TestGpu& gpu_;
  Marks marks_;
  TimedGpu timed_;
  std::unique_ptr<Tensors> tensors_;
};

}  // namespace sla2::gpu_check
