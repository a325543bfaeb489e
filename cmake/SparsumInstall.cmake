# Installs the library, the kernels, the headers, the program with the published options, and a CMake package:
#   find_package(sparsum REQUIRED)                      sparsum::sparsum and sparsum::kernels
#   find_package(sparsum REQUIRED COMPONENTS kernels)   sparsum::kernels alone, without LibTorch
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(_package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/sparsum")

# The library finds LibTorch where the build found it, and the program finds the library beside it.
# Written out, because INSTALL_RPATH_USE_LINK_PATH leaves out what is inside the source tree, as .venv is.
set_target_properties(sparsum PROPERTIES INSTALL_RPATH "$ORIGIN;${SparsumTorch_LIBRARY_DIRS}")
# Two export sets, so that the kernels can be had without anything that names LibTorch.
install(TARGETS sparsum EXPORT sparsum-targets LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}")
install(TARGETS sparsum_kernels EXPORT sparsum-kernels-targets ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}")
if(TARGET sparsum_cli)
  file(RELATIVE_PATH _lib_from_bin "${CMAKE_INSTALL_FULL_BINDIR}" "${CMAKE_INSTALL_FULL_LIBDIR}")
  set_target_properties(sparsum_cli PROPERTIES INSTALL_RPATH "$ORIGIN/${_lib_from_bin};${SparsumTorch_LIBRARY_DIRS}")
  install(TARGETS sparsum_cli RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}")
  install(DIRECTORY "${PROJECT_SOURCE_DIR}/configs" DESTINATION "${CMAKE_INSTALL_DATADIR}/sparsum" FILES_MATCHING
          PATTERN "*.toml")
endif()
install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/sparsum" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}"
        FILES_MATCHING PATTERN "*.h")

install(EXPORT sparsum-targets NAMESPACE sparsum:: DESTINATION "${_package_dir}")
install(EXPORT sparsum-kernels-targets NAMESPACE sparsum:: DESTINATION "${_package_dir}")
configure_package_config_file("${PROJECT_SOURCE_DIR}/cmake/sparsum-config.cmake.in"
                              "${PROJECT_BINARY_DIR}/sparsum-config.cmake" INSTALL_DESTINATION "${_package_dir}")
write_basic_package_version_file("${PROJECT_BINARY_DIR}/sparsum-config-version.cmake"
                                 COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/sparsum-config.cmake" "${PROJECT_BINARY_DIR}/sparsum-config-version.cmake"
              "${PROJECT_SOURCE_DIR}/cmake/FindSparsumTorch.cmake" DESTINATION "${_package_dir}")
