// SPDX-License-Identifier: Apache-2.0
// A build without nvcc carries no kernels; the build with it generates modules.cpp in this file's place.
#include "device/device.h"

namespace sla2::device {

std::span<const Module> embedded_modules() noexcept { return {}; }

}  // namespace sla2::device
