# Builds the library with AddressSanitizer: target mooncake_asan, file mooncake_asan_file. The
# runtime comes with the C program that is linked to it.

find_program(RUSTC rustc HINTS "$ENV{HOME}/.cargo/bin" REQUIRED)
execute_process(COMMAND "${RUSTC}" -vV OUTPUT_VARIABLE rustc_version)
string(REGEX MATCH "host: ([^\n]+)" host_line "${rustc_version}")
set(rust_host "${CMAKE_MATCH_1}")
execute_process(COMMAND ${CMAKE_COMMAND} -E env RUSTC_BOOTSTRAP=1
                        "${RUSTC}" -Zsanitizer=address --target ${rust_host} --print cfg
                OUTPUT_VARIABLE rustc_cfg ERROR_QUIET)
string(FIND "${rustc_cfg}" "sanitize=\"address\"" place)
if(place EQUAL -1)
    set(mooncake_has_rust_asan FALSE)
    return()
endif()
set(mooncake_has_rust_asan TRUE)

set(asan_target_dir "${CMAKE_CURRENT_BINARY_DIR}/rust_asan_target")
set(mooncake_asan_file "${CMAKE_CURRENT_BINARY_DIR}/rust_asan_lib/${mooncake_soname}")
add_custom_target(mooncake_asan_cargo
    COMMAND ${CMAKE_COMMAND} -E env RUSTC_BOOTSTRAP=1 "CARGO_TARGET_DIR=${asan_target_dir}"
            "RUSTFLAGS=-Zsanitizer=address -Cunsafe-allow-abi-mismatch=sanitizer"
            "${CARGO}" build --lib --target ${rust_host}
    COMMAND ${CMAKE_COMMAND} -E copy_if_different
            "${asan_target_dir}/${rust_host}/debug/libmooncake.so" "${mooncake_asan_file}"
    BYPRODUCTS "${mooncake_asan_file}"
    WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}"
    COMMENT "cargo build with AddressSanitizer"
    USES_TERMINAL VERBATIM)
file(MAKE_DIRECTORY "${CMAKE_CURRENT_BINARY_DIR}/rust_asan_lib")

add_library(mooncake_asan SHARED IMPORTED)
set_target_properties(mooncake_asan PROPERTIES
    IMPORTED_LOCATION "${mooncake_asan_file}"
    IMPORTED_SONAME "${mooncake_soname}"
    INTERFACE_INCLUDE_DIRECTORIES "${PROJECT_SOURCE_DIR}/include")
add_dependencies(mooncake_asan mooncake_asan_cargo)
