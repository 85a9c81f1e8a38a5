// SPDX-License-Identifier: Apache-2.0
// Patch embedding: latent [C, F, H, W] to x [tokens, dim]. Time embedding: a timestep to the modulation vectors of every
// block and of the head; the sinusoid in fp64, the rest as the model's Linears.
#include <algorithm>
#include <cmath>
#include <vector>

#include "dit/model.h"
#include "kernels/elementwise.h"

namespace sla2::dit {

namespace {

constexpr double kMaxPeriod = 10000.0;

/// target = base + offset, with 1 added to the rows that are scales.
void modulate(const float* base, const float* offset, int64_t dim, std::span<const bool> is_scale, float* target) {
  for (size_t row = 0; row < is_scale.size(); ++row) {
    const auto first = static_cast<int64_t>(row) * dim;
    const float one = is_scale[row] ? 1.0F : 0.0F;
    for (int64_t i = first; i < first + dim; ++i) target[i] = one + (base[i] + offset[i]);
  }
}

}  // namespace

std::vector<float> sinusoid(double timestep, int64_t width) {
  const int64_t half = width / 2;
  std::vector<float> values(static_cast<size_t>(width), 0.0F);
  for (int64_t i = 0; i < half; ++i) {
    const double angle = timestep * std::pow(kMaxPeriod, -static_cast<double>(i) / static_cast<double>(half));
    values[static_cast<size_t>(i)] = static_cast<float>(std::cos(angle));
    values[static_cast<size_t>(half + i)] = static_cast<float>(std::sin(angle));
  }
  return values;
}

TimeEmbedding load_time_embedding(const Loader& loader, const config::DitConfig& c) {
  return {loader.linear(spec_time_in(c)), loader.linear(spec_time_out(c)), loader.linear(spec_time_projection(c)),
          loader.vector("head.modulation", {1, 2, c.dim})};
}

void embed_time(const config::DitConfig& c, const TimeEmbedding& time, const std::vector<Block>& blocks, float timestep,
                void* scratch, StepVectors& step) {
  const auto dim = static_cast<size_t>(c.dim);
  const std::vector<float> wave = sinusoid(timestep, c.freq_dim);
  std::vector<float> hidden(dim), e(dim), e0(kModulationVectors * dim);
  time.in.forward(wave.data(), 1, c.freq_dim, hidden.data(), c.dim, {kernels::Epilogue::Kind::kSilu}, scratch);
  time.out.forward(hidden.data(), 1, c.dim, e.data(), c.dim, {}, scratch);
  hidden = e;
  kernels::silu(hidden.data(), c.dim);
  time.projection.forward(hidden.data(), 1, c.dim, e0.data(), kModulationVectors * c.dim, {}, scratch);

  constexpr bool kScaleRows[kModulationVectors] = {false, true, false, false, true, false};
  for (size_t layer = 0; layer < blocks.size(); ++layer)
    modulate(blocks[layer].modulation.data(), e0.data(), c.dim, kScaleRows,
             step.blocks.data() + layer * kModulationVectors * dim);
  // The head adds e itself to both rows: no SiLU, no projection.
  constexpr bool kHeadScaleRows[2] = {false, true};
  std::vector<float> twice(e);
  twice.insert(twice.end(), e.begin(), e.end());
  modulate(time.head_modulation.data(), twice.data(), c.dim, kHeadScaleRows, step.head.data());
  step.timestep = timestep;
}

void embed_patches(const kernels::PackedLinear& patch, const latent::Latent& input, const config::DitConfig& c,
                   const Workspace& work) {
  latent::patchify(input, {work.tokens_in, static_cast<size_t>(work.tokens * patch.in())});
  for (int64_t row = 0; row < work.tokens; row += work.chunk)
    patch.forward(work.tokens_in + row * patch.in(), std::min(work.chunk, work.tokens - row), patch.in(), work.x + row * c.dim,
                  c.dim, {}, work.scratch);
  if (work.place != nullptr) permute_rows(work.x, work.tokens, c.dim, work.rope.order);
}

void permute_rows(float* x, int64_t rows, int64_t width, const int32_t* order) {
  std::vector<bool> done(static_cast<size_t>(rows));
  std::vector<float> first(static_cast<size_t>(width));
  for (int64_t start = 0; start < rows; ++start) {  // along each cycle, every row moves once
    if (done[static_cast<size_t>(start)]) continue;
    std::copy_n(x + start * width, width, first.begin());
    int64_t at = start;
    for (int64_t from = order[at]; from != start; at = from, from = order[at]) {
      std::copy_n(x + from * width, width, x + at * width);
      done[static_cast<size_t>(at)] = true;
    }
    std::copy_n(first.begin(), width, x + at * width);
    done[static_cast<size_t>(at)] = true;
  }
}

}  // namespace sla2::dit
