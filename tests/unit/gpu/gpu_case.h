// SPDX-License-Identifier: Apache-2.0
// Numbers on an emulated GPU and back.
#pragma once
#include <random>
#include <vector>

#include "core/core.h"
#include "cuda_emulator/emulated_device.h"

namespace sla2::gpu_test {

inline constexpr uint64_t kPlenty = uint64_t{1} << 30;
inline constexpr uint32_t kShared = 99 * 1024;  // of a block on 8.6, 8.9 and 12.0, the least there is

inline std::vector<float> normal(size_t count, unsigned seed, float spread = 1, float middle = 0) {
  std::mt19937 random(seed);
  std::normal_distribution<float> numbers(middle, spread);
  std::vector<float> x(count);
  for (float& value : x) value = numbers(random);
  return x;
}
inline std::vector<uint16_t> to_bf16(const std::vector<float>& x) {
  std::vector<uint16_t> y(x.size());
  for (size_t i = 0; i < x.size(); ++i) y[i] = f32_to_bf16(x[i]);
  return y;
}
inline std::vector<double> to_double(const std::vector<uint16_t>& x) {
  std::vector<double> y(x.size());
  for (size_t i = 0; i < x.size(); ++i) y[i] = static_cast<double>(bf16_to_f32(x[i]));
  return y;
}

/// A vector in the GPU's memory.
template <typename T>
class OnGpu {
 public:
  OnGpu(device::Gpu& gpu, const std::vector<T>& values)
      : gpu_(gpu), buffer_(gpu, values.size() * sizeof(T)), count_(values.size()) {
    gpu.copy_in(buffer_.get(), values.data(), values.size() * sizeof(T));
  }
  OnGpu(device::Gpu& gpu, size_t count) : gpu_(gpu), buffer_(gpu, count * sizeof(T)), count_(count) {}
  [[nodiscard]] T* data() const { return static_cast<T*>(buffer_.get()); }
  [[nodiscard]] std::vector<T> values() const {
    std::vector<T> x(count_);
    gpu_.copy_out(x.data(), buffer_.get(), count_ * sizeof(T));
    return x;
  }

 private:
  device::Gpu& gpu_;
  device::Buffer buffer_;
  size_t count_;
};

}  // namespace sla2::gpu_test
