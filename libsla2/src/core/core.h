// SPDX-License-Identifier: Apache-2.0
// The door of core: what every other room may use.
#pragma once
#include "core/allocator.h"
#include "core/arena.h"
#include "core/arithmetic.h"
#include "core/cancel.h"
#include "core/caps.h"
#include "core/cpu_features.h"
#include "core/dtype.h"
#include "core/error.h"
#include "core/log.h"
#include "core/sha256.h"
#include "core/tensor_view.h"
#include "core/threads.h"
