# SPDX-License-Identifier: Apache-2.0
# sla2_add_room(NAME SOURCES ... DEPS rooms... LIBS libraries...)
#   One room of the library: a static, position-independent target sla2_<NAME>. Rooms see each other's doors through
#   libsla2/src on the include path; tests/arch/rooms.txt says who may include whom.
#   Presets other than dev compile several files of a room as one, which reads their headers once; a room with the same name in two
#   files' anonymous namespaces stands in SLA2_ROOMS_APART until it is renamed.
set(SLA2_ROOMS_APART kernels attention dit)
function(sla2_add_room name)
  cmake_parse_arguments(ROOM "" "" "SOURCES;DEPS;LIBS" ${ARGN})
  add_library(sla2_${name} STATIC ${ROOM_SOURCES})
  target_include_directories(sla2_${name} PUBLIC ${PROJECT_SOURCE_DIR}/libsla2/src ${PROJECT_SOURCE_DIR}/libsla2/include
                                                 ${PROJECT_BINARY_DIR}/generated)
  target_link_libraries(sla2_${name} PRIVATE $<BUILD_INTERFACE:sla2_warnings>)
  foreach(dep IN LISTS ROOM_DEPS)
    target_link_libraries(sla2_${name} PUBLIC sla2_${dep})
  endforeach()
  target_link_libraries(sla2_${name} PUBLIC fmt::fmt-header-only ${ROOM_LIBS})
  target_compile_definitions(sla2_${name} PUBLIC SLA2_STATIC)
  if(name IN_LIST SLA2_ROOMS_APART)
    set_target_properties(sla2_${name} PROPERTIES UNITY_BUILD OFF)
  endif()
endfunction()

# sla2_isa_sources(ROOM ISA FLAGS FILES...)  compile FILES of a room with one instruction set's flags.
# The files are reached only through core/caps.h dispatch, never included by others.
function(sla2_isa_sources room flags)
  foreach(file IN LISTS ARGN)
    target_sources(sla2_${room} PRIVATE ${file})
    set_source_files_properties(${file} PROPERTIES COMPILE_OPTIONS "${flags}")
  endforeach()
endfunction()

# sla2_add_room_test(NAME SOURCES ... DEPS rooms... LIBS ...)  a Catch2 program test_<NAME>, registered with ctest; all of
# them make the target unit_tests.
function(sla2_add_room_test name)
  cmake_parse_arguments(T "" "" "SOURCES;DEPS;LIBS" ${ARGN})
  add_executable(test_${name} ${T_SOURCES})
  foreach(dep IN LISTS T_DEPS)
    target_link_libraries(test_${name} PRIVATE sla2_${dep})
  endforeach()
  target_link_libraries(test_${name} PRIVATE Catch2::Catch2WithMain sla2_warnings ${T_LIBS})
  target_compile_definitions(test_${name} PRIVATE SLA2_SOURCE_DIR="${PROJECT_SOURCE_DIR}" SLA2_BINARY_DIR="${PROJECT_BINARY_DIR}")
  add_test(NAME unit.${name} COMMAND test_${name})
  add_dependencies(unit_tests test_${name})
  set(limit 300)
  if(SLA2_SANITIZE)
    set(limit 1800)
  endif()
  set_tests_properties(unit.${name} PROPERTIES TIMEOUT ${limit} LABELS unit)
endfunction()

# sla2_add_probe(NAME SOURCES ... DEPS rooms...)  a program probe_<NAME>: safetensors in, safetensors out, driven by
# tests/python, which compares with somebody else's code.
function(sla2_add_probe name)
  cmake_parse_arguments(T "" "" "SOURCES;DEPS;LIBS" ${ARGN})
  add_executable(probe_${name} ${T_SOURCES})
  foreach(dep IN LISTS T_DEPS)
    target_link_libraries(probe_${name} PRIVATE sla2_${dep})
  endforeach()
  target_link_libraries(probe_${name} PRIVATE sla2_warnings ${T_LIBS})
endfunction()
