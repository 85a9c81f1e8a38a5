# SPDX-License-Identifier: Apache-2.0
# The shared library from all rooms, and what an installed tree holds: headers, CMake package sla2::sla2, pkg-config file.
# Rooms are linked PRIVATE, so no dependency and no SLA2_STATIC reaches a consumer.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# The numbers a program compiles against are base.h's: SONAME and symbol version follow its SLA2_ABI_VERSION (libsla2/docs/abi.md), and
# its release must be this project's.
file(STRINGS ${PROJECT_SOURCE_DIR}/libsla2/include/sla2/base.h lines REGEX "^#define SLA2_(ABI_VERSION|VERSION_[A-Z]+) [0-9]+$")
foreach(line IN LISTS lines)
  string(REGEX MATCH "SLA2_([A-Z_]+) ([0-9]+)" matched "${line}")
  set(SLA2_${CMAKE_MATCH_1} ${CMAKE_MATCH_2})
endforeach()
set(header_version ${SLA2_VERSION_MAJOR}.${SLA2_VERSION_MINOR}.${SLA2_VERSION_PATCH})
if(NOT header_version STREQUAL PROJECT_VERSION OR NOT SLA2_ABI_VERSION)
  message(FATAL_ERROR "base.h says release ${header_version}, ABI '${SLA2_ABI_VERSION}'; expected release ${PROJECT_VERSION} of CMakeLists.txt and an ABI number: change both")
endif()
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/libsla2/include/sla2/base.h)
set(SLA2_VERSION_SCRIPT ${PROJECT_BINARY_DIR}/package/sla2.map)
configure_file(${PROJECT_SOURCE_DIR}/packaging/cmake/sla2.map.in ${SLA2_VERSION_SCRIPT} @ONLY)

add_library(sla2 SHARED)
add_library(sla2::sla2 ALIAS sla2)
target_link_libraries(sla2 PRIVATE sla2_api)
target_include_directories(sla2 INTERFACE $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/libsla2/include>
                                          $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
target_link_options(sla2 PRIVATE LINKER:--version-script=${SLA2_VERSION_SCRIPT} LINKER:--exclude-libs,ALL LINKER:-z,defs)
if(SLA2_SANITIZE) # sanitizer runtimes live in the program, so their symbols stay undefined here
  target_link_options(sla2 PRIVATE LINKER:-z,undefs)
endif()
set_target_properties(sla2 PROPERTIES VERSION ${SLA2_ABI_VERSION}.${PROJECT_VERSION} SOVERSION ${SLA2_ABI_VERSION} LINKER_LANGUAGE CXX
                                      LINK_DEPENDS ${SLA2_VERSION_SCRIPT})

install(TARGETS sla2 EXPORT sla2Targets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT library)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/libsla2/include/sla2 DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT library)
install(EXPORT sla2Targets NAMESPACE sla2:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/sla2 COMPONENT library)

set(package_files ${PROJECT_BINARY_DIR}/package)
configure_package_config_file(${PROJECT_SOURCE_DIR}/packaging/cmake/sla2Config.cmake.in ${package_files}/sla2Config.cmake
                              INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/sla2)
# Within an ABI number a newer release serves whoever asks for an older one; what raises it raises the major version.
write_basic_package_version_file(${package_files}/sla2ConfigVersion.cmake COMPATIBILITY SameMajorVersion)
install(FILES ${package_files}/sla2Config.cmake ${package_files}/sla2ConfigVersion.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/sla2 COMPONENT library)
# The prefix is written relative to the file, so that an installed tree can be moved.
file(RELATIVE_PATH SLA2_PC_TO_PREFIX /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
configure_file(${PROJECT_SOURCE_DIR}/packaging/cmake/sla2.pc.in ${package_files}/sla2.pc @ONLY)
install(FILES ${package_files}/sla2.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT library)
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/licenses/sla2 COMPONENT library)
