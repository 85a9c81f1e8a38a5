// SPDX-License-Identifier: Apache-2.0
// cuBLASLt thinks in columns: our row-major y [rows, out] is its column-major D [out, rows], so D = Wᵀ·x with W and x as they
// lie. Numbers of enumerations and the structure of a heuristic's result: cuBLASLt reference, stable since CUDA 11.4.
#include "device/blas.h"

#include <cmath>
#include <vector>

#include "core/core.h"
#include "device/library.h"

#ifndef _WIN32
#include <dlfcn.h>
#endif

namespace sla2::device {

namespace {

using Status = int;
using Handle = void*;

constexpr Status kSuccess = 0;
constexpr int kCompute32F = 68, kTypeF32 = 0, kTypeBf16 = 14;              // cublasComputeType_t, cudaDataType
constexpr int kDescTransA = 3, kDescEpilogue = 7, kDescBias = 8;           // cublasLtMatmulDescAttributes_t
constexpr int kTransposed = 1, kEpilogueBias = 4, kEpilogueGeluBias = 36;  // cublasOperation_t, cublasLtEpilogue_t
constexpr int kPreferenceWorkspace = 1;                                    // cublasLtMatmulPreferenceAttributes_t
constexpr int64_t kLeastRows = 16;                                         // fewer rows gain nothing

struct Heuristic {
  uint64_t algorithm[8];
  size_t workspace;
  Status state;
  float waves;
  int reserved[4];
};

#define SLA2_BLAS_FUNCTIONS(X)                                                                                               \
  X(create, "cublasLtCreate", (Handle*))                                                                                     \
  X(destroy, "cublasLtDestroy", (Handle))                                                                                    \
  X(desc_create, "cublasLtMatmulDescCreate", (Handle*, int, int))                                                            \
  X(desc_set, "cublasLtMatmulDescSetAttribute", (Handle, int, const void*, size_t))                                          \
  X(desc_destroy, "cublasLtMatmulDescDestroy", (Handle))                                                                     \
  X(layout_create, "cublasLtMatrixLayoutCreate", (Handle*, int, uint64_t, uint64_t, int64_t))                                \
  X(layout_destroy, "cublasLtMatrixLayoutDestroy", (Handle))                                                                 \
  X(preference_create, "cublasLtMatmulPreferenceCreate", (Handle*))                                                          \
  X(preference_set, "cublasLtMatmulPreferenceSetAttribute", (Handle, int, const void*, size_t))                              \
  X(preference_destroy, "cublasLtMatmulPreferenceDestroy", (Handle))                                                         \
  X(heuristic, "cublasLtMatmulAlgoGetHeuristic",                                                                             \
    (Handle, Handle, Handle, Handle, Handle, Handle, Handle, int, Heuristic*, int*))                                         \
  X(multiply, "cublasLtMatmul",                                                                                              \
    (Handle, Handle, const void*, const void*, Handle, const void*, Handle, const void*, const void*, Handle, void*, Handle, \
     const void*, void*, size_t, void*))

std::string beside_this_library(const char* name) {
#ifdef _WIN32
  (void)name;
  return "";  // LoadLibrary looks there by itself
#else
  Dl_info where{};
  if (::dladdr(reinterpret_cast<const void*>(&beside_this_library), &where) == 0 || where.dli_fname == nullptr) return "";
  const std::string file = where.dli_fname;
  const size_t slash = file.rfind('/');
  return slash == std::string::npos ? "" : file.substr(0, slash + 1) + name;
#endif
}

void* find_library() {
#ifdef _WIN32
  constexpr const char* kNames[] = {"cublasLt64_13.dll", "cublasLt64_12.dll"};
#else
  constexpr const char* kNames[] = {"libcublasLt.so.13", "libcublasLt.so.12"};
#endif
  for (const char* const name : kNames)
    if (void* const library = open_library(name, true)) return library;
  for (const char* const name : kNames) {
    const std::string beside = beside_this_library(name);
    if (!beside.empty())
      if (void* const library = open_library(beside.c_str())) return library;
    if (void* const library = open_library(name)) return library;
  }
  return nullptr;
}

}  // namespace

struct BlasFunctions {
#define SLA2_BLAS_MEMBER(member, name, parameters) Status(*member) parameters = nullptr;
  SLA2_BLAS_FUNCTIONS(SLA2_BLAS_MEMBER)
#undef SLA2_BLAS_MEMBER
};

/// What cuBLASLt wants to know of one shape, and what it chose. `usable` false: it has nothing for it.
struct Blas::Shape {
  explicit Shape(const BlasFunctions& functions) : f(functions) {}
  ~Shape() {
    if (desc != nullptr) (void)f.desc_destroy(desc);
    for (const Handle layout : {a, b, d})
      if (layout != nullptr) (void)f.layout_destroy(layout);
  }
  Shape(const Shape&) = delete;
  Shape& operator=(const Shape&) = delete;

  const BlasFunctions& f;
  Handle desc = nullptr, a = nullptr, b = nullptr, d = nullptr;
  Heuristic chosen{};
  bool usable = false;
};

Blas::Blas(Gpu& gpu, std::unique_ptr<BlasFunctions> functions) : gpu_(gpu), functions_(std::move(functions)) {}
Blas::~Blas() {
  try {
    gpu_.run_current([&] {
      shapes_.clear();
      if (handle_ != nullptr) (void)functions_->destroy(handle_);
    });
  } catch (const Error&) {  // the context is gone, and all it had
  }
}

std::unique_ptr<Blas> Blas::open(Gpu& gpu, std::string& why) {
  void* const library = find_library();
  if (library == nullptr) {
    why = "no cuBLASLt (12 or 13) in this process, beside the library or in the system";
    return nullptr;
  }
  return with(gpu, library, why);
}

std::unique_ptr<Blas> Blas::with(Gpu& gpu, void* library, std::string& why) {
  auto functions = std::make_unique<BlasFunctions>();
  why.clear();
#define SLA2_BLAS_FIND(member, name, parameters)   \
  find_function(library, name, functions->member); \
  if (functions->member == nullptr && why.empty()) why = std::string("cuBLASLt has no ") + (name);
  SLA2_BLAS_FUNCTIONS(SLA2_BLAS_FIND)
#undef SLA2_BLAS_FIND
  if (!why.empty()) return nullptr;
  std::unique_ptr<Blas> blas(new Blas(gpu, std::move(functions)));
  Status created = kSuccess;
  gpu.run_current([&] { created = blas->functions_->create(&blas->handle_); });
  if (created != kSuccess) {
    why = fmt::format("cuBLASLt does not start (status {})", created);
    return nullptr;
  }
  why = blas->agrees();
  if (!why.empty()) return nullptr;
  return blas;
}

Blas::Shape& Blas::shape_of(const Key& key, const uint16_t* bias) {
  std::unique_ptr<Shape>& slot = shapes_[key];
  if (slot != nullptr) return *slot;
  const auto [rows, in, out, stride_x, stride_y, epilogue] = key;
  const BlasFunctions& f = *functions_;
  slot = std::make_unique<Shape>(f);
  Shape& s = *slot;
  Handle preference = nullptr;
  const size_t workspace = 0;  // nothing to plan for; a product of thousands of rows needs no splitting of its depth
  const auto size = [](int64_t x) { return static_cast<uint64_t>(x); };
  int found = 0;
  s.usable = f.desc_create(&s.desc, kCompute32F, kTypeF32) == kSuccess &&
             f.desc_set(s.desc, kDescTransA, &kTransposed, sizeof kTransposed) == kSuccess &&
             f.desc_set(s.desc, kDescEpilogue, &epilogue, sizeof epilogue) == kSuccess &&
             f.desc_set(s.desc, kDescBias, &bias, sizeof bias) == kSuccess &&
             f.layout_create(&s.a, kTypeBf16, size(in), size(out), in) == kSuccess &&
             f.layout_create(&s.b, kTypeBf16, size(in), size(rows), stride_x) == kSuccess &&
             f.layout_create(&s.d, kTypeBf16, size(out), size(rows), stride_y) == kSuccess &&
             f.preference_create(&preference) == kSuccess &&
             f.preference_set(preference, kPreferenceWorkspace, &workspace, sizeof workspace) == kSuccess &&
             f.heuristic(handle_, s.desc, s.a, s.b, s.d, s.d, preference, 1, &s.chosen, &found) == kSuccess && found == 1 &&
             s.chosen.state == kSuccess && s.chosen.workspace == 0;
  if (preference != nullptr) (void)f.preference_destroy(preference);
  return s;
}

bool Blas::linear(const LinearWeight& weight, const uint16_t* x, int64_t stride_x, int64_t rows, const LinearResult& result,
                  void* stream) {
  const bool gelu = result.finish == cuda::kGemmGeluTanh;
  if (weight.scale != nullptr || weight.bias16 == nullptr || result.element != DType::kBF16 || rows < kLeastRows ||
      (!gelu && result.finish != cuda::kGemmStore))
    return false;
  const int64_t stride_y = result.stride == 0 ? weight.out : result.stride;
  bool done = false;
  gpu_.run_current([&] {
    Shape& s =
        shape_of({rows, weight.in, weight.out, stride_x, stride_y, gelu ? kEpilogueGeluBias : kEpilogueBias}, weight.bias16);
    if (!s.usable) return;
    constexpr float kOne = 1, kZero = 0;
    s.usable = functions_->desc_set(s.desc, kDescBias, &weight.bias16, sizeof weight.bias16) == kSuccess &&
               functions_->multiply(handle_, s.desc, &kOne, weight.weight, s.a, x, s.b, &kZero, result.y, s.d, result.y, s.d,
                                    s.chosen.algorithm, nullptr, 0, stream) == kSuccess;
    done = s.usable;
  });
  return done;
}

/// Empty, or what is wrong: a product of a shape with nothing square about it, with both finishes, beside its formula.
std::string Blas::agrees() {
  constexpr int64_t kRows = 24, kIn = 40, kOut = 16, kStride = 48;
  const auto number = [](int64_t i) { return static_cast<float>((i * 37 + 11) % 29 - 14) / 16; };
  std::vector<uint16_t> x(kRows * kStride), w(kOut * kIn), bias(kOut), y(kRows * kOut);
  const auto fill = [&](std::vector<uint16_t>& values, int64_t first) {
    for (size_t i = 0; i < values.size(); ++i) values[i] = f32_to_bf16(number(first + static_cast<int64_t>(i)));
  };
  fill(x, 1), fill(w, 5), fill(bias, 3);
  const auto on_gpu = [&](const std::vector<uint16_t>& values) {
    Buffer buffer(gpu_, values.size() * sizeof(uint16_t));
    gpu_.copy_in(buffer.get(), values.data(), buffer.bytes());
    return buffer;
  };
  const Buffer gx = on_gpu(x), gw = on_gpu(w), gbias = on_gpu(bias), gy = on_gpu(y);
  const LinearWeight weight{gw.get(), nullptr, nullptr, kIn, kOut, gbias.at<uint16_t>()};
  for (const auto finish : {cuda::kGemmStore, cuda::kGemmGeluTanh}) {
    if (!linear(weight, gx.at<uint16_t>(), kStride, kRows, {gy.get(), DType::kBF16, 0, finish, nullptr}, nullptr))
      return "cuBLASLt has no such product";
    gpu_.wait(nullptr);
    gpu_.copy_out(y.data(), gy.get(), gy.bytes());
    for (int64_t row = 0; row < kRows; ++row)
      for (int64_t column = 0; column < kOut; ++column) {
        const auto at = [](const std::vector<uint16_t>& values, int64_t i) {
          return static_cast<double>(bf16_to_f32(values[static_cast<size_t>(i)]));
        };
        double v = at(bias, column);
        for (int64_t k = 0; k < kIn; ++k) v += at(x, row * kStride + k) * at(w, column * kIn + k);
        constexpr double kRoot = 0.7978845608028654, kCubic = 0.044715, kLastPlace = 1.0 / 128, kHalf = 0.5;
        if (finish == cuda::kGemmGeluTanh) v = kHalf * v * (1 + std::tanh(kRoot * (v + kCubic * v * v * v)));
        if (!(std::abs(at(y, row * kOut + column) - v) <= kLastPlace * (std::abs(v) + kHalf)))
          return fmt::format("cuBLASLt gives {} where {} is right", at(y, row * kOut + column), v);
      }
  }
  return "";
}

}  // namespace sla2::device
