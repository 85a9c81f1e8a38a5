// SPDX-License-Identifier: Apache-2.0
// What networks do on a GPU, as calls that queue one kernel each: products with Linears, norms, rotations. Everything is in the
// GPU's memory; rows lie one after the other unless a stride is given. Nothing is allocated and nothing waits.
#pragma once
#include <cstdint>
#include <memory>
#include <string>

#include "core/dtype.h"
#include "kernels/cuda/runner_params.h"

namespace sla2::device {

class Gpu;
class Blas;

/// A Linear's weight [out, in] on the GPU: bf16, or int8 with a scale for each output.
struct LinearWeight {
  const void* weight = nullptr;
  const float* scale = nullptr;  ///< [out] of int8; null: bf16
  const float* bias = nullptr;   ///< [out] or null
  int64_t in = 0, out = 0;
  const uint16_t* bias16 = nullptr;  ///< the same in bf16, for cuBLASLt; null: our product
};

/// Rows on their way into a product: bf16, or int8 with a scale for each row.
using ProductRows = cuda::ProductRows;

/// What a product does with its result, and where that goes.
struct LinearResult {
  void* y = nullptr;
  DType element = DType::kBF16;  ///< or fp32
  int64_t stride = 0;            ///< elements from row to row; 0: out
  cuda::GemmFinish finish = cuda::kGemmStore;
  const float* gate = nullptr;  ///< [out] for kGemmAddGated; null: ones
};

/// Rotary tables on the GPU; t.cosine null: no rotation.
struct RopeOnGpu {
  cuda::RopeTableParams t{}, h{}, w{};
  const int32_t* order = nullptr;
  int64_t head_dim = 0;
};

/// Widths a row must have for kernels to read it 16 bytes at a time.
inline constexpr int64_t kWidthStep = 8, kWidthStepInt8 = 16;

class Ops {
 public:
  /// Loads the kernels. The GPU outlives it.
  explicit Ops(Gpu& gpu);
  ~Ops();
  Ops(const Ops&) = delete;
  Ops& operator=(const Ops&) = delete;

  /// Look for cuBLASLt: products that it can do are its from here on. @return whose they are, in words
  std::string find_blas();
  void use_blas(std::unique_ptr<Blas> blas) noexcept;  ///< null: ours again

  /// The stream of everything that follows.
  void use_stream(void* stream) noexcept { stream_ = stream; }
  [[nodiscard]] void* stream() const noexcept { return stream_; }

  /// y = finish(x · weightᵀ + bias). x.steps goes with an int8 weight, x.bf16 (with stride_x; 0: in) with a bf16 one.
  void linear(const LinearWeight& weight, const ProductRows& x, int64_t rows, const LinearResult& result, int64_t stride_x = 0);

  /// y = (x - mean)·rsqrt(var + eps)·scale + shift over fp32 rows. scale, shift null: 1, 0. *bad := 1 where x has NaN or
  /// infinity.
  void layer_norm(const float* x, int64_t rows, int64_t width, const float* scale, const float* shift, float eps,
                  const ProductRows& y, int32_t* bad = nullptr);
  /// y = x in the form of products.
  void convert(const float* x, int64_t rows, int64_t width, const ProductRows& y, int32_t* bad = nullptr);
  void quantise(const uint16_t* x, int64_t rows, int64_t width, const ProductRows& y, int64_t stride_x = 0);
  /// RMSNorm over whole rows and rotation, bf16, in place; `second` not null: of the part that begins part_stride on too.
  struct RmsNorm {
    uint16_t* x;
    int64_t stride, rows, width;
    const float *weight, *second;
    int64_t part_stride, first_token;
    float eps;
  };
  void rms_norm(const RmsNorm& norm, const RopeOnGpu& rope);
  /// out[i] = base[i] + offset[i mod period] + 1 where bit (vector of i) of `ones` is set; `vectors` of `dim` numbers repeat.
  void modulate(const float* base, const float* offset, float* out, int64_t count, int64_t period, int64_t dim, int64_t vectors,
                uint32_t ones);

 private:
  template <typename Params>
  void start(const char* kernel, int64_t grid_x, int64_t grid_y, uint32_t threads, uint32_t shared, const Params& params);

  Gpu& gpu_;
  std::unique_ptr<Blas> blas_;
  void* stream_ = nullptr;
};

}  // namespace sla2::device
