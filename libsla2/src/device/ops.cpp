// SPDX-License-Identifier: Apache-2.0
#include "device/ops.h"

#include "core/core.h"
#include "device/blas.h"

namespace sla2::device {
namespace {

int64_t row_blocks(int64_t rows) { return ceil_div(rows, cuda::kRowsPerBlock); }

void check_width(const char* what, int64_t width, int64_t step) {
  SLA2_CHECK(width > 0 && width % step == 0, SLA2_E_UNSUPPORTED,
             "GPU: {} is {}; the kernels need a multiple of {}: run this model on the CPU", what, width, step);
}

}  // namespace

Ops::Ops(Gpu& gpu) : gpu_(gpu) {
  for (const char* const kernel : {"sla2_gemm_bf16", "sla2_gemm_int8"}) gpu_.prepare(kernel, cuda::kGemmBytes);
  for (const char* const kernel : {"sla2_layer_norm", "sla2_quantise", "sla2_rms_norm", "sla2_modulate"}) gpu_.prepare(kernel, 0);
}

Ops::~Ops() = default;

std::string Ops::find_blas() {
  if (!gpu_.takes_libraries()) return "our own product";
  std::string why;
  blas_ = Blas::open(gpu_, why);
  return blas_ != nullptr ? "cuBLASLt, and our own product where it adds to the residual stream or multiplies bytes"
                          : fmt::format("our own product, which is slower: {}", why);
}

void Ops::use_blas(std::unique_ptr<Blas> blas) noexcept { blas_ = std::move(blas); }

template <typename Params>
void Ops::start(const char* kernel, int64_t grid_x, int64_t grid_y, uint32_t threads, uint32_t shared, const Params& params) {
  device::start(gpu_, kernel, grid_x, grid_y, threads, shared, params, stream_);
}

void Ops::linear(const LinearWeight& weight, const ProductRows& x, int64_t rows, const LinearResult& result, int64_t stride_x) {
  const bool bytes = weight.scale != nullptr;
  check_width("a Linear's input width", weight.in, bytes ? kWidthStepInt8 : kWidthStep);
  check_width("a Linear's output width", weight.out, 2);
  SLA2_CHECK(bytes == (x.bf16 == nullptr), SLA2_E_INTERNAL, "GPU: rows and weight of a product are of different kinds");
  SLA2_CHECK(result.finish != cuda::kGemmAddGated || result.element == DType::kF32, SLA2_E_INTERNAL,
             "GPU: a residual stream is fp32");
  const int64_t stride = stride_x == 0 ? weight.in : stride_x;
  if (blas_ != nullptr && blas_->linear(weight, x.bf16, stride, rows, result, stream_)) return;
  cuda::GemmParams p{};
  p.x = bytes ? static_cast<const void*>(x.steps) : x.bf16;
  p.w = weight.weight;
  p.row_scale = x.scale, p.column_scale = weight.scale;
  p.bias = weight.bias, p.gate = result.gate;
  p.y = result.y;
  p.stride_x = stride, p.stride_y = result.stride == 0 ? weight.out : result.stride;
  p.rows = static_cast<int32_t>(rows), p.in = static_cast<int32_t>(weight.in), p.out = static_cast<int32_t>(weight.out);
  p.finish = result.finish;
  p.element = result.element == DType::kF32 ? cuda::kElementF32 : cuda::kElementBf16;
  start(bytes ? "sla2_gemm_int8" : "sla2_gemm_bf16", ceil_div(weight.out, cuda::kGemmColumns), ceil_div(rows, cuda::kGemmRows),
        cuda::kGemmThreads, cuda::kGemmBytes, p);
}

void Ops::layer_norm(const float* x, int64_t rows, int64_t width, const float* scale, const float* shift, float eps,
                     const ProductRows& y, int32_t* bad) {
  const cuda::LayerNormParams p{x, scale, shift, y, bad, static_cast<int32_t>(rows), static_cast<int32_t>(width), 0, eps};
  start("sla2_layer_norm", row_blocks(rows), 1, cuda::kRowThreads, 0, p);
}

void Ops::convert(const float* x, int64_t rows, int64_t width, const ProductRows& y, int32_t* bad) {
  const cuda::LayerNormParams p{x, nullptr, nullptr, y, bad, static_cast<int32_t>(rows), static_cast<int32_t>(width), 1, 0};
  start("sla2_layer_norm", row_blocks(rows), 1, cuda::kRowThreads, 0, p);
}

void Ops::quantise(const uint16_t* x, int64_t rows, int64_t width, const ProductRows& y, int64_t stride_x) {
  const cuda::QuantiseParams p{x, y, stride_x == 0 ? width : stride_x, static_cast<int32_t>(rows), static_cast<int32_t>(width)};
  start("sla2_quantise", row_blocks(rows), 1, cuda::kRowThreads, 0, p);
}

void Ops::rms_norm(const RmsNorm& n, const RopeOnGpu& rope) {
  cuda::RmsNormParams p{};
  p.x = n.x;
  p.weight[0] = n.weight, p.weight[1] = n.second;
  p.stride_x = n.stride, p.part_stride = n.part_stride;
  p.t = rope.t, p.h = rope.h, p.w = rope.w, p.order = rope.order;
  p.rows = static_cast<int32_t>(n.rows), p.width = static_cast<int32_t>(n.width);
  p.head_dim = static_cast<int32_t>(rope.head_dim), p.first_token = static_cast<int32_t>(n.first_token);
  p.eps = n.eps;
  start("sla2_rms_norm", row_blocks(n.rows), n.second == nullptr ? 1 : 2, cuda::kRowThreads, 0, p);
}

void Ops::modulate(const float* base, const float* offset, float* out, int64_t count, int64_t period, int64_t dim,
                   int64_t vectors, uint32_t ones) {
  const cuda::ModulateParams p{
      base, offset, out, count, static_cast<int32_t>(period), static_cast<int32_t>(dim), static_cast<int32_t>(vectors), ones};
  start("sla2_modulate", ceil_div(count, cuda::kRowThreads), 1, cuda::kRowThreads, 0, p);
}

}  // namespace sla2::device
