// SPDX-License-Identifier: Apache-2.0
// Memory of oneDNN's in a buffer of ours, so that packed weights come from where every large buffer comes from
// (core/allocator.h).
#pragma once
#include <cstddef>
#include <oneapi/dnnl/dnnl.hpp>

#include "core/tensor_view.h"

namespace sla2::kernels {

struct DnnlBuffer {
  AlignedBuffer<std::byte> bytes;
  dnnl::memory memory;  ///< on `bytes`
  DnnlBuffer() = default;
  DnnlBuffer(const dnnl::memory::desc& desc, const dnnl::engine& engine)
      : bytes(desc.get_size()), memory(desc, engine, bytes.data()) {}
};

}  // namespace sla2::kernels
