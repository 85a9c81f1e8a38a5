// SPDX-License-Identifier: Apache-2.0
// Pages of 2 MB for large buffers, where the system grants them: block-sparse reads of 32 KB here and there otherwise wait for
// the page table (a third of the bandwidth on Zen 4).
#pragma once
#include <cstddef>

namespace sla2 {

/// Ask for huge pages on the whole ones inside [data, data + bytes); no more than advice, and nothing below 8 MB.
void advise_huge_pages(void* data, size_t bytes) noexcept;

}  // namespace sla2
