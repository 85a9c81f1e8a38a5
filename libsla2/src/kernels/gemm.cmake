# SPDX-License-Identifier: Apache-2.0
# Products, norms, rotary embedding and elementwise kernels.
list(APPEND KERNEL_SOURCES gemm.cpp packed_linear.cpp panel_products.cpp byte_rows.cpp norm.cpp rope.cpp elementwise.cpp ref/norm.cpp ref/rope.cpp ref/elementwise.cpp ref/byte_rows.cpp)
list(APPEND KERNEL_AVX2_SOURCES cpu/norm.cpp cpu/rope.cpp cpu/elementwise.cpp cpu/byte_rows.cpp)
