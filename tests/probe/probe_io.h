// SPDX-License-Identifier: Apache-2.0
// Named fp32 tensors from and to safetensors, for probes.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "weights/weights.h"

namespace sla2::probe {

struct Tensor {
  std::string name;
  std::vector<int64_t> shape;
  std::vector<float> values;
};

inline std::vector<float> read_tensor(const weights::SafetensorsFile& file, const std::string& name) {
  const weights::TensorInfo* info = file.find(name);
  SLA2_CHECK(info != nullptr, SLA2_E_ARGUMENT, "{}: no tensor '{}'", file.path(), name);
  std::vector<std::byte> bytes(info->end - info->begin);
  file.read_bytes(*info, 0, bytes);
  std::vector<float> values(static_cast<size_t>(info->element_count()));
  convert_to_f32(info->dtype, bytes.data(), values.data(), values.size());
  return values;
}

inline void write_tensors(const std::string& path, const std::vector<Tensor>& tensors) {
  std::vector<weights::OutputTensor> outputs;
  for (const Tensor& tensor : tensors) outputs.push_back({tensor.name, DType::kF32, tensor.shape, tensor.values.data()});
  weights::write_safetensors(path, outputs);
}

}  // namespace sla2::probe
