// SPDX-License-Identifier: Apache-2.0
// What stands behind the opaque handles of the C door that more than one file here needs.
#pragma once
#include "config/params/params.h"

struct sla2_params {
  sla2::config::ParamSet values;
};
