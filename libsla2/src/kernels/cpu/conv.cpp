// SPDX-License-Identifier: Apache-2.0
// oneDNN behind kernels/conv.h. Blocked activations are the layout whose direct kernels reach the machine's peak; the
// weights' layout is asked of oneDNN at a nominal size and asked again at the real one.
#include "kernels/conv.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <oneapi/dnnl/dnnl.hpp>
#include <optional>
#include <utility>

#include "core/error.h"
#include "kernels/dnnl_buffer.h"

namespace sla2::kernels {

namespace {

using dnnl::memory;

constexpr int64_t kNominalSize = 64;  // rows and columns at which weights are packed first

const dnnl::engine& cpu_engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

template <typename Function>
auto guarded(const char* what, const ConvGeometry& g, Function&& function) {
  try {
    return function();
  } catch (const dnnl::error& error) {
    const bool memory_failed = error.status == dnnl_out_of_memory;
    fail(memory_failed ? SLA2_E_MEMORY : SLA2_E_INTERNAL,
         "oneDNN could not {} a convolution {} -> {} channels, kernel {}x{}, stride {}: {}", what, g.in_channels, g.out_channels,
         g.kernel_h, g.kernel_w, g.stride, error.what());
  }
}

constexpr auto kF32 = memory::data_type::f32, kBf16 = memory::data_type::bf16;

memory::data_type type_of(DType products) { return products == DType::kBF16 ? kBf16 : kF32; }

memory::desc frame_desc(int64_t channels, int64_t height, int64_t width, int64_t block, memory::data_type type) {
  return {{1, channels, height, width}, type, block == 16 ? memory::format_tag::nChw16c : memory::format_tag::nChw8c};
}

dnnl::convolution_forward::primitive_desc describe(const ConvGeometry& g, const FrameShape& in, bool bias, bool accumulate,
                                                   memory::data_type type) {
  const FrameShape out = g.output(in);
  const memory::desc src = frame_desc(in.channels, in.height, in.width, in.block, type);
  const memory::desc dst = frame_desc(out.channels, out.height, out.width, in.block, kF32);
  const memory::desc weights({g.out_channels, g.in_channels, g.kernel_h, g.kernel_w}, type, memory::format_tag::any);
  const memory::desc bias_desc =
      bias ? memory::desc({g.out_channels}, memory::data_type::f32, memory::format_tag::a) : memory::desc();
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (accumulate) {
    dnnl::post_ops post;
    post.append_sum(1.0F);
    attributes.set_post_ops(post);
  }
  const dnnl::convolution_forward::desc operation(dnnl::prop_kind::forward_inference, dnnl::algorithm::convolution_direct, src,
                                                  weights, bias_desc, dst, {g.stride, g.stride}, {g.pad_top, g.pad_left},
                                                  {g.pad_bottom, g.pad_right});
  return {operation, attributes, cpu_engine()};
}

FrameShape nominal_input(const ConvGeometry& g, int64_t block) { return {g.in_channels, kNominalSize, kNominalSize, block}; }

}  // namespace

int64_t preferred_block() {
  static const int64_t block = [] {
    switch (dnnl::get_effective_cpu_isa()) {
      case dnnl::cpu_isa::avx512_core:
      case dnnl::cpu_isa::avx512_core_vnni:
      case dnnl::cpu_isa::avx512_core_bf16:
      case dnnl::cpu_isa::avx512_core_amx: return int64_t{16};
      default: return int64_t{8};
    }
  }();
  return block;
}

ConvGeometry ConvGeometry::same(int64_t in_channels, int64_t out_channels, int64_t kernel) {
  const int64_t pad = kernel / 2;
  return {in_channels, out_channels, kernel, kernel, 1, pad, pad, pad, pad};
}

FrameShape ConvGeometry::output(const FrameShape& input) const noexcept {
  return {out_channels, (input.height + pad_top + pad_bottom - kernel_h) / stride + 1,
          (input.width + pad_left + pad_right - kernel_w) / stride + 1, input.block};
}

struct PackedConv::Impl {
  ConvGeometry geometry;
  int64_t block = 8;
  DnnlBuffer weights;
  std::optional<DnnlBuffer> bias;
  DType products = DType::kF32;
  [[nodiscard]] memory::data_type type() const { return type_of(products); }
};

PackedConv::PackedConv(const ConvGeometry& geometry, const float* weights, const float* bias, int64_t block, DType products) {
  guarded("pack the weights of", geometry, [&] {
    auto impl = std::make_shared<Impl>();
    impl->geometry = geometry;
    impl->block = block;
    impl->products = products;
    const memory::desc plain({geometry.out_channels, geometry.in_channels, geometry.kernel_h, geometry.kernel_w},
                             memory::data_type::f32, memory::format_tag::oihw);
    const auto described = describe(geometry, nominal_input(geometry, block), bias != nullptr, false, impl->type());
    impl->weights = DnnlBuffer(described.weights_desc(), cpu_engine());
    memory source(plain, cpu_engine(), const_cast<float*>(weights));  // oneDNN reads only, its signature does not say so
    dnnl::stream stream(cpu_engine());
    dnnl::reorder(source, impl->weights.memory).execute(stream, source, impl->weights.memory);
    stream.wait();
    if (bias != nullptr) {
      impl->bias = DnnlBuffer(described.bias_desc(), cpu_engine());
      std::memcpy(impl->bias->bytes.data(), bias, static_cast<size_t>(geometry.out_channels) * sizeof(float));
    }
    impl_ = std::move(impl);
  });
}

const ConvGeometry& PackedConv::geometry() const noexcept { return impl_->geometry; }
int64_t PackedConv::block() const noexcept { return impl_->block; }
DType PackedConv::products() const noexcept { return impl_->products; }
uint64_t PackedConv::bytes() const noexcept {
  return impl_->weights.bytes.size() + (impl_->bias ? impl_->bias->bytes.size() : 0);
}

uint64_t PackedConv::bytes_for(const ConvGeometry& geometry, bool bias, int64_t block, DType products) {
  return guarded("size", geometry, [&] {
    const auto described = describe(geometry, nominal_input(geometry, block), bias, false, type_of(products));
    return static_cast<uint64_t>(described.weights_desc().get_size() + (bias ? described.bias_desc().get_size() : 0));
  });
}

uint64_t PackedConv::scratch_bytes(const ConvGeometry& geometry, int64_t height, int64_t width, bool bias, int64_t block,
                                   DType products) {
  return guarded("size", geometry, [&] {
    size_t most = 0;
    for (const bool accumulate : {false, true})
      most = std::max(most, describe(geometry, {geometry.in_channels, height, width, block}, bias, accumulate, type_of(products))
                                .scratchpad_desc()
                                .get_size());
    return static_cast<uint64_t>(most);
  });
}

struct Conv::Impl {
  PackedConv packed;
  FrameShape input, output;
  memory weights;        // the packed ones, or `reordered`
  DnnlBuffer reordered;  // a copy where this size asks for another order
  dnnl::stream stream;
  struct Primitive {
    dnnl::convolution_forward run;
    memory::desc scratch;
  };
  std::array<std::optional<Primitive>, 2> primitives;  // [accumulate], made when first used
  memory src, dst;

  const Primitive& primitive(bool accumulate) {
    std::optional<Primitive>& slot = primitives[accumulate ? 1 : 0];
    if (!slot) {
      const auto described = describe(packed.geometry(), input, packed.impl_->bias.has_value(), accumulate, packed.impl_->type());
      if (described.weights_desc() != weights.get_desc()) {
        DnnlBuffer other(described.weights_desc(), cpu_engine());
        memory source = packed.impl_->weights.memory;
        dnnl::reorder(source, other.memory).execute(stream, source, other.memory);
        stream.wait();
        reordered = std::move(other);
        weights = reordered.memory;
        primitives = {};
      }
      slot.emplace(Primitive{dnnl::convolution_forward(described), described.scratchpad_desc()});
    }
    return *slot;
  }
};

Conv::Conv(PackedConv weights, int64_t height, int64_t width) {
  const ConvGeometry geometry = weights.geometry();
  guarded("prepare", geometry, [&] {
    impl_ = std::make_unique<Impl>();
    impl_->input = {geometry.in_channels, height, width, weights.block()};
    impl_->output = geometry.output(impl_->input);
    impl_->weights = weights.impl_->weights.memory;
    impl_->stream = dnnl::stream(cpu_engine());
    const FrameShape &in = impl_->input, &out = impl_->output;
    impl_->src = memory(frame_desc(in.channels, in.height, in.width, in.block, weights.impl_->type()), cpu_engine(), nullptr);
    impl_->dst = memory(frame_desc(out.channels, out.height, out.width, out.block, kF32), cpu_engine(), nullptr);
    impl_->packed = std::move(weights);
  });
}

Conv::~Conv() = default;
Conv::Conv(Conv&&) noexcept = default;
Conv& Conv::operator=(Conv&&) noexcept = default;

void Conv::run(const void* src, float* dst, bool accumulate, std::span<std::byte> scratch) {
  guarded("run", impl_->packed.geometry(), [&] {
    const Impl::Primitive& primitive = impl_->primitive(accumulate);
    SLA2_CHECK(primitive.scratch.get_size() <= scratch.size(), SLA2_E_INTERNAL,
               "a convolution needs {} bytes of scratch, got {}: the number of threads must not grow while a stream runs",
               primitive.scratch.get_size(), scratch.size());
    impl_->src.set_data_handle(const_cast<void*>(src), impl_->stream);  // read only
    impl_->dst.set_data_handle(dst, impl_->stream);
    std::unordered_map<int, memory> arguments{
        {DNNL_ARG_SRC, impl_->src}, {DNNL_ARG_WEIGHTS, impl_->weights}, {DNNL_ARG_DST, impl_->dst}};
    if (impl_->packed.impl_->bias) arguments.emplace(DNNL_ARG_BIAS, impl_->packed.impl_->bias->memory);
    if (primitive.scratch.get_size() > 0)
      arguments.emplace(DNNL_ARG_SCRATCHPAD, memory(primitive.scratch, cpu_engine(), scratch.data()));
    primitive.run.execute(impl_->stream, arguments);
    impl_->stream.wait();
  });
}

DType Conv::products() const noexcept { return impl_->packed.products(); }
const FrameShape& Conv::input() const noexcept { return impl_->input; }
const FrameShape& Conv::output() const noexcept { return impl_->output; }

}  // namespace sla2::kernels
