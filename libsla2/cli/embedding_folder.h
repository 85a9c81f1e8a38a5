// SPDX-License-Identifier: Apache-2.0
// Where the tool keeps encoded prompts, so that the text encoder (11 GB of UMT5-XXL) is not read again for the same words, the
// negative prompt above all. The library itself writes to no folder that nobody named.
#pragma once
#include <sla2/params.h>

#include "files.h"

namespace sla2::cli {

inline constexpr const char* kCacheVariable = "SLA2_CACHE";
inline constexpr uint64_t kMostEmbeddingBytes = uint64_t{512} << 20;  // some 250 prompts of 128 tokens

/// $SLA2_CACHE/embeddings, else $XDG_CACHE_HOME/sla2/embeddings, else ~/.cache/sla2/embeddings; "" where SLA2_CACHE is empty or
/// there is no home.
fs::path default_embedding_folder();

/// Set the parameter embedding_cache to the default folder where nobody set it; `off` empties it. A folder that cannot be made is
/// as good as none. Entries that were not used for longest go until kMostEmbeddingBytes are left.
void choose_embedding_folder(sla2_params* params, bool off);

}  // namespace sla2::cli
