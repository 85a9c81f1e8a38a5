// SPDX-License-Identifier: Apache-2.0
// C door of the token orders in attention.h.
#include <sla2/attention.h>

#include "api/guard.h"
#include "attention/attention.h"
#include "core/core.h"

using namespace sla2;  // NOLINT(google-build-using-namespace): definitions of C functions only

sla2_status sla2_token_order(int32_t kind, int64_t frames, int64_t height, int64_t width, int64_t tile_f, int64_t tile_h,
                             int64_t tile_w, int32_t* order) {
  return api::guard([&] {
    SLA2_CHECK(kind >= SLA2_ORDER_RASTER && kind <= SLA2_ORDER_HILBERT, SLA2_E_ARGUMENT,
               "sla2_token_order: kind is {}; expected 1 (raster), 2 (tiles) or 3 (hilbert)", kind);
    int32_t& first = api::required(order, "sla2_token_order", "order");
    attention::token_order(static_cast<attention::Order>(kind), {frames, height, width}, {tile_f, tile_h, tile_w}, &first);
  });
}

sla2_status sla2_token_order_invert(const int32_t* order, int64_t count, int32_t* inverse) {
  return api::guard([&] {
    SLA2_CHECK(count >= 0 && count <= INT32_MAX, SLA2_E_ARGUMENT, "sla2_token_order_invert: count is {}; expected 0 to 2^31 - 1",
               count);
    const int32_t& from = api::required(order, "sla2_token_order_invert", "order");
    attention::invert_order(&from, count, &api::required(inverse, "sla2_token_order_invert", "inverse"));
  });
}
