// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/backward_queries.h"

namespace sla2::cuda {

SLA2_KERNEL(sla2_backward_statistics_128, kMaxThreads, 1, StatisticsParams) { row_statistics<128>(p); }
SLA2_KERNEL(sla2_backward_queries_128, kMaxThreads, 1, QueriesParams) { query_gradients<128>(p); }

}  // namespace sla2::cuda
