// SPDX-License-Identifier: Apache-2.0
// The numbers of a case, as the library will read them: already rounded to the case's element type.
#pragma once
#include "case.h"

namespace sla2::check {

/// One Head per batch and query head, [B·H]; query heads of a group hold equal keys and values. The same for any machine.
[[nodiscard]] std::vector<Head> make_heads(const Case& c);
/// dO of the same shapes, for gradients.
[[nodiscard]] std::vector<Table> make_d_out(const Case& c);
/// To the nearest value of the element type.
[[nodiscard]] double rounded(double x, Element type);

}  // namespace sla2::check
