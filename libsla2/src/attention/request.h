// SPDX-License-Identifier: Apache-2.0
// Is a call something its plan can run? Checked on the calling thread, before anything is written.
#pragma once
#include "attention/geometry.h"

namespace sla2::attention {

/// Throws ARGUMENT | UNSUPPORTED naming the operand. route_only: v, out, lse and probe are not looked at. on_device: what given
/// lists and masks hold is not looked at either.
void check_request(const Geometry& geometry, const Forward& in, const void* workspace, bool route_only, bool on_device);

}  // namespace sla2::attention
