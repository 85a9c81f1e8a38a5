# SPDX-License-Identifier: Apache-2.0
# cmake -DBUILD= -DSOURCE= -DWORK= -DCC= -DGENERATOR= -P: install the library into an empty prefix, then build and run a C
# program outside the tree twice: through find_package(sla2) and through pkg-config.
function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE code OUTPUT_VARIABLE out ERROR_VARIABLE out)
  if(NOT code EQUAL 0)
    string(REPLACE ";" " " line "${ARGN}")
    message(FATAL_ERROR "${line}\nexit code ${code}\n${out}")
  endif()
  set(output "${out}" PARENT_SCOPE)
endfunction()

file(REMOVE_RECURSE ${WORK})
set(prefix ${WORK}/prefix)
run(${CMAKE_COMMAND} --install ${BUILD} --component library --prefix ${prefix})

run(${CMAKE_COMMAND} -S ${SOURCE} -B ${WORK}/cmake -G ${GENERATOR} -DCMAKE_C_COMPILER=${CC} -DCMAKE_PREFIX_PATH=${prefix})
run(${CMAKE_COMMAND} --build ${WORK}/cmake)
run(${WORK}/cmake/consumer)
message(STATUS "find_package: ${output}")

file(GLOB_RECURSE pc_file ${prefix}/sla2.pc)
get_filename_component(pc_folder ${pc_file} DIRECTORY)
get_filename_component(lib_folder ${pc_folder} DIRECTORY)
set(ENV{PKG_CONFIG_PATH} ${pc_folder})
run(pkg-config --cflags --libs sla2)
separate_arguments(flags UNIX_COMMAND "${output}")
run(${CC} -std=c11 -pedantic -Wall -Wextra -Werror ${SOURCE}/main.c -o ${WORK}/consumer_pc ${flags} -Wl,-rpath,${lib_folder})
run(${WORK}/consumer_pc)
message(STATUS "pkg-config: ${output}")
