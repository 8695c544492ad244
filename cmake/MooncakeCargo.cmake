# Runs cargo and offers what it built as mooncake::mooncake and mooncake::mooncake_static.

set(cargo_profile "${MOONCAKE_CARGO_PROFILE}")
if(cargo_profile STREQUAL "")
    if(CMAKE_BUILD_TYPE STREQUAL "Debug")
        set(cargo_profile dev)
    else()
        set(cargo_profile release)
    endif()
endif()
# cargo puts the profile "dev" into the folder "debug".
string(REGEX REPLACE "^dev$" "debug" cargo_folder "${cargo_profile}")

if(DEFINED ENV{CARGO_TARGET_DIR})
    get_filename_component(cargo_target_dir "$ENV{CARGO_TARGET_DIR}" ABSOLUTE
                           BASE_DIR "${CMAKE_CURRENT_SOURCE_DIR}")
elseif(mooncake_is_top)
    # Where a plain `cargo build` puts it too, so that nothing is built twice.
    set(cargo_target_dir "${CMAKE_CURRENT_SOURCE_DIR}/target")
else()
    set(cargo_target_dir "${CMAKE_CURRENT_BINARY_DIR}/target")
endif()
set(cargo_output "${cargo_target_dir}/${cargo_folder}")

# The loader looks for the SONAME, so the library gets its versioned names in the build tree too.
set(mooncake_library_dir "${CMAKE_CURRENT_BINARY_DIR}/lib")
set(mooncake_file
    "libmooncake.so.${MOONCAKE_ABI_VERSION}.${PROJECT_VERSION_MINOR}.${PROJECT_VERSION_PATCH}")
set(mooncake_soname "libmooncake.so.${MOONCAKE_ABI_VERSION}")
file(MAKE_DIRECTORY "${mooncake_library_dir}")
# The names that programs of the upstream libraries link to.
foreach(name IN ITEMS transfer_engine mooncake_store)
    file(CREATE_LINK "${mooncake_soname}" "${mooncake_library_dir}/lib${name}.so" SYMBOLIC)
endforeach()

# cargo knows itself what is out of date; it is asked every time.
add_custom_target(mooncake_cargo ALL
    COMMAND ${CMAKE_COMMAND} -E env "CARGO_TARGET_DIR=${cargo_target_dir}"
            "${CARGO}" build --lib --bins --profile ${cargo_profile} ${MOONCAKE_CARGO_ARGUMENTS}
    COMMAND ${CMAKE_COMMAND} -E copy_if_different
            "${cargo_output}/libmooncake.so" "${mooncake_library_dir}/${mooncake_file}"
    COMMAND ${CMAKE_COMMAND} -E create_symlink
            "${mooncake_file}" "${mooncake_library_dir}/${mooncake_soname}"
    COMMAND ${CMAKE_COMMAND} -E create_symlink
            "${mooncake_soname}" "${mooncake_library_dir}/libmooncake.so"
    BYPRODUCTS "${cargo_output}/libmooncake.so" "${cargo_output}/libmooncake.a"
               "${mooncake_library_dir}/${mooncake_file}"
    WORKING_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}"
    COMMENT "cargo build (${cargo_profile})"
    USES_TERMINAL VERBATIM)

add_library(mooncake_shared_file SHARED IMPORTED GLOBAL)
set_target_properties(mooncake_shared_file PROPERTIES
    IMPORTED_LOCATION "${mooncake_library_dir}/${mooncake_file}"
    IMPORTED_SONAME "${mooncake_soname}")
add_dependencies(mooncake_shared_file mooncake_cargo)

add_library(mooncake_static_file STATIC IMPORTED GLOBAL)
set_target_properties(mooncake_static_file PROPERTIES
    IMPORTED_LOCATION "${cargo_output}/libmooncake.a"
    INTERFACE_LINK_LIBRARIES "${MOONCAKE_NATIVE_LIBRARIES}")
add_dependencies(mooncake_static_file mooncake_cargo)

foreach(kind shared static)
    add_library(mooncake_${kind} INTERFACE)
    add_dependencies(mooncake_${kind} mooncake_cargo)
    target_link_libraries(mooncake_${kind} INTERFACE mooncake_${kind}_file)
    target_include_directories(mooncake_${kind} INTERFACE "${CMAKE_CURRENT_SOURCE_DIR}/include")
endforeach()
add_library(mooncake::mooncake ALIAS mooncake_shared)
add_library(mooncake::mooncake_static ALIAS mooncake_static)
