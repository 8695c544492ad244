# Installs library, header, programs, pkg-config and CMake package. Any prefix, with DESTDIR.

install(FILES "${mooncake_library_dir}/${mooncake_file}" DESTINATION "${CMAKE_INSTALL_LIBDIR}"
        PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE
                    GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
install(FILES "${mooncake_library_dir}/${mooncake_soname}" "${mooncake_library_dir}/libmooncake.so"
        DESTINATION "${CMAKE_INSTALL_LIBDIR}")
install(FILES "${cargo_output}/libmooncake.a" DESTINATION "${CMAKE_INSTALL_LIBDIR}")
if(MOONCAKE_INSTALL_TRANSFER_ENGINE_LINK)
    install(FILES "${mooncake_library_dir}/libtransfer_engine.so"
                  "${mooncake_library_dir}/libmooncake_store.so"
            DESTINATION "${CMAKE_INSTALL_LIBDIR}")
endif()

install(DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}/include/" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}"
        FILES_MATCHING PATTERN "*.h")

# Programs are found by their sources, so that a new one is installed without a line here.
file(GLOB program_sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/src/bin/*.rs")
foreach(source IN LISTS program_sources)
    get_filename_component(program "${source}" NAME_WE)
    install(PROGRAMS "${cargo_output}/${program}" DESTINATION "${CMAKE_INSTALL_BINDIR}")
endforeach()

file(GLOB documents CONFIGURE_DEPENDS
     "${CMAKE_CURRENT_SOURCE_DIR}/README.md" "${CMAKE_CURRENT_SOURCE_DIR}/CHANGELOG.md"
     "${CMAKE_CURRENT_SOURCE_DIR}/LICENSE" "${CMAKE_CURRENT_SOURCE_DIR}/docs/*.md")
install(FILES ${documents} DESTINATION "${CMAKE_INSTALL_DOCDIR}")

set(package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/mooncake")
configure_package_config_file(cmake/mooncakeConfig.cmake.in mooncakeConfig.cmake
    INSTALL_DESTINATION "${package_dir}"
    PATH_VARS CMAKE_INSTALL_INCLUDEDIR CMAKE_INSTALL_LIBDIR)
configure_file(cmake/mooncakeConfigVersion.cmake.in mooncakeConfigVersion.cmake @ONLY)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/mooncakeConfig.cmake"
              "${CMAKE_CURRENT_BINARY_DIR}/mooncakeConfigVersion.cmake"
        DESTINATION "${package_dir}")

# The prefix of the pkg-config file is counted from its own place, so a moved tree still works. A
# distribution that wants absolute folders gets them.
if(IS_ABSOLUTE "${CMAKE_INSTALL_LIBDIR}" OR IS_ABSOLUTE "${CMAKE_INSTALL_INCLUDEDIR}")
    set(pc_prefix "${CMAKE_INSTALL_PREFIX}")
    set(pc_libdir "${CMAKE_INSTALL_FULL_LIBDIR}")
    set(pc_includedir "${CMAKE_INSTALL_FULL_INCLUDEDIR}")
else()
    file(RELATIVE_PATH pc_prefix "/p/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/p")
    string(REGEX REPLACE "/$" "" pc_prefix "${pc_prefix}")
    set(pc_prefix "\${pcfiledir}/${pc_prefix}")
    set(pc_libdir "\${prefix}/${CMAKE_INSTALL_LIBDIR}")
    set(pc_includedir "\${prefix}/${CMAKE_INSTALL_INCLUDEDIR}")
endif()
list(TRANSFORM MOONCAKE_NATIVE_LIBRARIES PREPEND "-l" OUTPUT_VARIABLE pc_private)
list(JOIN pc_private " " pc_private)
configure_file(cmake/mooncake.pc.in mooncake.pc @ONLY)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/mooncake.pc"
        DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig")
