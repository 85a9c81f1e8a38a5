// SPDX-License-Identifier: Apache-2.0
// Head: x [tokens, dim] to the velocity [C_out, F, H, W]; LayerNorm, modulation by e, one Linear, channels fastest in a patch.
#include <algorithm>

#include "dit/model.h"
#include "kernels/norm.h"

namespace sla2::dit {

void run_head(const kernels::PackedLinear& head, const config::DitConfig& c, const StepVectors& step, const Workspace& work,
              latent::Latent& velocity) {
  const float *shift = step.head.data(), *scale = shift + c.dim;
  for (int64_t row = 0; row < work.tokens; row += work.chunk) {
    const int64_t rows = std::min(work.chunk, work.tokens - row);
    kernels::layer_norm(work.x + row * c.dim, c.dim, scale, shift, static_cast<float>(c.eps), work.head_norm, c.dim, rows, c.dim);
    head.forward(work.head_norm, rows, c.dim, work.tokens_out + row * head.out(), head.out(), {}, work.scratch);
  }
  if (work.place != nullptr) permute_rows(work.tokens_out, work.tokens, head.out(), work.place);
  latent::unpatchify({work.tokens_out, static_cast<size_t>(work.tokens * head.out())}, velocity);
}

}  // namespace sla2::dit
