/* SPDX-License-Identifier: Apache-2.0 */
/** @file unstable.h  Declarations that may change in any version. To use them, say so: #define SLA2_UNSTABLE before including.
 *
 *  A function enters here, proves itself for a minor version, and then moves to a stable header with its name unchanged.
 *  At this version nothing is unstable.
 */
#ifndef SLA2_UNSTABLE_H
#define SLA2_UNSTABLE_H

#ifndef SLA2_UNSTABLE
#error "sla2/unstable.h may change in any version; #define SLA2_UNSTABLE before including it if you accept that"
#endif

#include "sla2/base.h"

#endif /* SLA2_UNSTABLE_H */
