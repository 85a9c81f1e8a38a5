// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/backward_queries.h"

namespace sla2::cuda {

SLA2_KERNEL(sla2_backward_statistics_64, kMaxThreads, 1, StatisticsParams) { row_statistics<64>(p); }
SLA2_KERNEL(sla2_backward_queries_64, kMaxThreads, 1, QueriesParams) { query_gradients<64>(p); }

}  // namespace sla2::cuda
