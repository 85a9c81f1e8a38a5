// SPDX-License-Identifier: Apache-2.0
// The door of the device room: GPUs through the CUDA driver, which is opened at run time. Without one everything here says so and
// nothing else changes.
#pragma once
#include "device/launch.h"
