// SPDX-License-Identifier: Apache-2.0
// What a call at the C door hands in, checked: tensors of the plan's shapes, arrays, lists, memory that must not overlap.
#pragma once
#include <sla2/attention.h>

#include <array>
#include <initializer_list>
#include <memory>

#include "api/tensor_view.h"
#include "attention/attention.h"

struct sla2_attention {
  std::unique_ptr<sla2::attention::Plan> plan;
  int32_t layout;
  sla2::api::Where where{};
};

namespace sla2::api {

/// Threads of this call, the host's where it gives some; what the calling thread had comes back afterwards. On a GPU: its stream
/// instead.
class ThreadScope {
 public:
  ThreadScope(const sla2_exec* exec, const sla2_attention& plan);
  [[nodiscard]] void* stream() const { return stream_; }

 private:
  explicit ThreadScope(const sla2_exec& exec) : threads_(exec.threads), host_(exec.run, exec.run_user), stream_(exec.stream) {}
  ThreadCountScope threads_;
  HostThreadsScope host_;
  void* stream_ = nullptr;
};

/// Every stretch of memory of one call: what is written may meet nothing else.
class Memory {
 public:
  explicit Memory(const Where& where) : where_(where) {}
  [[nodiscard]] const Where& where() const { return where_; }
  void reads(const char* name, ByteRange range) { add(name, range, false); }
  void writes(const char* name, ByteRange range) { add(name, range, true); }
  /// Throws SLA2_E_ARGUMENT naming both.
  void check_apart() const;

 private:
  struct Entry {
    const char* name;
    ByteRange range;
    bool written;
  };
  static constexpr size_t kMost = 32;
  void add(const char* name, ByteRange range, bool written);
  Where where_;
  std::array<Entry, kMost> entries_{};
  size_t count_ = 0;
};

/// At least `needed` bytes, aligned; noted as written.
void check_workspace(const void* workspace, uint64_t bytes, uint64_t needed, const char* ask, Memory& memory);

/// [B,heads,tokens,D] in the plan's layout, fp32, bf16 or fp16, channels contiguous.
[[nodiscard]] attention::Operand read_operand(const sla2_tensor* source, const char* name, const sla2_attention& plan,
                                              int64_t heads, int64_t tokens, Memory& memory);
/// The same to write to: its elements are distinct.
[[nodiscard]] attention::MutableOperand write_operand(const sla2_tensor* source, const char* name, const sla2_attention& plan,
                                                      int64_t heads, int64_t tokens, Memory& memory);

/// Contiguous array of the shape; an extent of -1 in `shape` matches any. NULL gives null. @return the checked view
[[nodiscard]] const float* read_floats(const sla2_tensor* source, const char* name, std::initializer_list<int64_t> shape,
                                       Memory& memory);
[[nodiscard]] float* write_floats(const sla2_tensor* source, const char* name, std::initializer_list<int64_t> shape,
                                  Memory& memory);
[[nodiscard]] const uint8_t* read_bytes(const sla2_tensor* source, const char* name, std::initializer_list<int64_t> shape,
                                        Memory& memory);

/// NULL is refused. The library reads (`written` false) or writes it.
[[nodiscard]] attention::BlockList read_list(const sla2_block_list* source, const char* name, const sla2_attention& plan,
                                             bool written, Memory& memory);

struct Parameters {
  attention::Parameters learned;
  const float* key_bias = nullptr;
  attention::BlockList given;
  bool has_given = false;
  const uint8_t* given_mask = nullptr;
};
/// NULL: all defaults.
[[nodiscard]] Parameters read_parameters(const sla2_attention_params* source, const sla2_attention& plan, Memory& memory);

struct Inputs {
  attention::Operand q, k, v;
};
/// v may be missing where `route_only`.
[[nodiscard]] Inputs read_inputs(const sla2_qkv* source, const sla2_attention& plan, bool route_only, Memory& memory);

/// Refuse a struct of a newer caller whose spare bytes are set.
void check_reserved(uint32_t value, const char* name);

}  // namespace sla2::api
