// SPDX-License-Identifier: Apache-2.0
#include "core/pages.h"

#include <sys/mman.h>

#include <cstdint>

namespace sla2 {

void advise_huge_pages(void* data, size_t bytes) noexcept {
  constexpr size_t kPage = size_t{2} << 20, kLeast = size_t{8} << 20;
  if (bytes < kLeast) return;
#ifdef MADV_HUGEPAGE
  auto* const begin = static_cast<std::byte*>(data);
  const size_t skip = (kPage - reinterpret_cast<uintptr_t>(data) % kPage) % kPage;
  (void)madvise(begin + skip, (bytes - skip) / kPage * kPage, MADV_HUGEPAGE);  // refused: small pages do as well
#else
  (void)data;
#endif
}

}  // namespace sla2
