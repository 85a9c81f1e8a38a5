# SPDX-License-Identifier: Apache-2.0
# Every third-party library, each said once. fmt and nlohmann-json are header-only, so that libsla2.so needs
# oneDNN, sentencepiece, utf8proc and the C++ runtime alone.
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
# Debian's dnnl package file asks for OpenCL headers that nothing here uses, so the library is found by itself.
find_path(DNNL_INCLUDE_DIR oneapi/dnnl/dnnl.hpp REQUIRED)
find_library(DNNL_LIBRARY dnnl REQUIRED)
add_library(dnnl::dnnl UNKNOWN IMPORTED)
set_target_properties(dnnl::dnnl PROPERTIES IMPORTED_LOCATION ${DNNL_LIBRARY} INTERFACE_INCLUDE_DIRECTORIES ${DNNL_INCLUDE_DIR})
find_package(fmt CONFIG REQUIRED)
find_package(nlohmann_json CONFIG REQUIRED)
pkg_check_modules(SENTENCEPIECE REQUIRED IMPORTED_TARGET sentencepiece)
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET libutf8proc)
if(SLA2_THREADS STREQUAL "openmp")
  find_package(OpenMP REQUIRED COMPONENTS CXX)
endif()
if(SLA2_BUILD_CLI OR SLA2_BUILD_TESTS)
  find_package(CLI11 CONFIG REQUIRED)  # the tool, and the probes of the tests
endif()
if(SLA2_BUILD_CLI)
  pkg_check_modules(FFMPEG REQUIRED IMPORTED_TARGET libavformat libavcodec libswscale libavutil)
endif()
if(SLA2_BUILD_TESTS)
  find_package(Catch2 2 CONFIG REQUIRED)
endif()
