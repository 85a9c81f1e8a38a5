// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace sla2 {

/// Causal 3x3x3 convolutions of the full-size VAE's shapes in bf16, direct and Winograd, interleaved; a table on stdout.
void bench_convs();

}  // namespace sla2
