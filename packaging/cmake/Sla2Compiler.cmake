# SPDX-License-Identifier: Apache-2.0
# One place for language level, visibility, warnings, sanitizers and ccache.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_C_STANDARD 11)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_C_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()

find_program(SLA2_CCACHE ccache)
mark_as_advanced(SLA2_CCACHE)
if(SLA2_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_C_COMPILER_LAUNCHER ${SLA2_CCACHE})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${SLA2_CCACHE})
endif()

add_library(sla2_warnings INTERFACE)
target_compile_options(sla2_warnings INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion -Wnon-virtual-dtor -Wcast-align
  $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>  # GCC 12 and 13 see it in std::string's own operator+ (GCC bug 105329)
  $<$<BOOL:${SLA2_WERROR}>:-Werror>)

# Strict floating point everywhere: results must not depend on the optimiser's mood, so no -ffast-math.
# Contraction stays off in scalar code so that a reference means the same on every compiler.
add_compile_options(-ffp-contract=off)

if(SLA2_SANITIZE)
  add_compile_options(-fsanitize=${SLA2_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${SLA2_SANITIZE})
endif()
