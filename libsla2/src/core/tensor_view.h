// SPDX-License-Identifier: Apache-2.0
// TensorView: a non-owning, strided window on elements; rank is part of the type, strides count elements.
// AlignedBuffer: owning, 64-byte aligned, uninitialised storage for plain element types, from core/allocator.h.
#pragma once
#include <array>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <span>
#include <utility>

#include "core/allocator.h"

namespace sla2 {

template <typename T, int Rank>
struct TensorView {
  T* data = nullptr;
  std::array<int64_t, Rank> shape{};
  std::array<int64_t, Rank> strides{};

  TensorView() = default;
  /// Contiguous, last axis fastest.
  TensorView(T* pointer, const std::array<int64_t, Rank>& dims) : data(pointer), shape(dims) {
    int64_t step = 1;
    for (int axis = Rank - 1; axis >= 0; --axis) {
      strides[static_cast<size_t>(axis)] = step;
      step *= shape[static_cast<size_t>(axis)];
    }
  }
  TensorView(T* pointer, const std::array<int64_t, Rank>& dims, const std::array<int64_t, Rank>& steps)
      : data(pointer), shape(dims), strides(steps) {}
  /// A mutable view is usable as a const one.
  operator TensorView<const T, Rank>() const { return {data, shape, strides}; }

  template <typename... Index>
  T& operator()(Index... index) const {
    static_assert(sizeof...(Index) == Rank, "one index per axis");
    const std::array<int64_t, Rank> at{static_cast<int64_t>(index)...};
    int64_t offset = 0;
    for (size_t axis = 0; axis < Rank; ++axis) {
      assert(at[axis] >= 0 && at[axis] < shape[axis]);
      offset += at[axis] * strides[axis];
    }
    return data[offset];
  }
  [[nodiscard]] int64_t size() const {
    int64_t product = 1;
    for (const int64_t extent : shape) product *= extent;
    return product;
  }
};

template <typename T>
class AlignedBuffer {
  static_assert(std::is_trivially_copyable_v<T>, "plain elements only");

 public:
  static constexpr size_t kAlignment = kBufferAlignment;
  AlignedBuffer() = default;
  /// Throws SLA2_E_MEMORY.
  explicit AlignedBuffer(size_t count) : data_(static_cast<T*>(allocate_buffer(count, sizeof(T)))), count_(count) {}
  AlignedBuffer(AlignedBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), count_(std::exchange(other.count_, 0)) {}
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(count_, other.count_);
    return *this;
  }
  AlignedBuffer(const AlignedBuffer&) = delete;
  AlignedBuffer& operator=(const AlignedBuffer&) = delete;
  ~AlignedBuffer() { release_buffer(data_, count_ * sizeof(T)); }

  [[nodiscard]] T* data() noexcept { return data_; }
  [[nodiscard]] const T* data() const noexcept { return data_; }
  [[nodiscard]] size_t size() const noexcept { return count_; }
  [[nodiscard]] bool empty() const noexcept { return count_ == 0; }
  [[nodiscard]] T& operator[](size_t i) noexcept { return data_[i]; }
  [[nodiscard]] const T& operator[](size_t i) const noexcept { return data_[i]; }
  [[nodiscard]] std::span<T> span() noexcept { return {data_, count_}; }
  [[nodiscard]] std::span<const T> span() const noexcept { return {data_, count_}; }

 private:
  T* data_ = nullptr;
  size_t count_ = 0;
};

}  // namespace sla2
