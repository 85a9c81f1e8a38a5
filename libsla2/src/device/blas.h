// SPDX-License-Identifier: Apache-2.0
// Products through cuBLASLt where a copy of it can be had at run time: one that the process has already (PyTorch's), one beside
// this library, the system's. Its ABI is declared by hand; before it is trusted, a small product of its own must give what our
// kernel gives.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <tuple>

#include "device/device.h"

namespace sla2::device {

struct BlasFunctions;

class Blas {
 public:
  /// Null, with `why`, where there is none, or one that fails or gives other numbers.
  static std::unique_ptr<Blas> open(Gpu& gpu, std::string& why);
  /// The same for one library, already open (tests).
  static std::unique_ptr<Blas> with(Gpu& gpu, void* library, std::string& why);
  ~Blas();
  Blas(const Blas&) = delete;
  Blas& operator=(const Blas&) = delete;

  /// bf16 rows · bf16 weightᵀ + bias16, stored or through GELU(tanh), bf16 out; nothing is allocated on the GPU. False: not this
  /// product (nothing was queued), ours does it.
  bool linear(const LinearWeight& weight, const uint16_t* x, int64_t stride_x, int64_t rows, const LinearResult& result,
              void* stream);

 private:
  Blas(Gpu& gpu, std::unique_ptr<BlasFunctions> functions);
  struct Shape;
  using Key = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int>;
  Shape& shape_of(const Key& key, const uint16_t* bias);
  [[nodiscard]] std::string agrees();

  Gpu& gpu_;
  std::unique_ptr<BlasFunctions> functions_;
  void* handle_ = nullptr;
  std::map<Key, std::unique_ptr<Shape>> shapes_;
};

}  // namespace sla2::device
