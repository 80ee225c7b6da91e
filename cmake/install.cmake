# Two installations: the files of the Python package (component python, by setup.py alone), and a C++ one with a CMake package.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

foreach(target intraformer_cpu intraformer_cuda intraformer_build_info)
  if(TARGET ${target})
    install(TARGETS ${target} LIBRARY DESTINATION . COMPONENT python EXCLUDE_FROM_ALL)
  endif()
endforeach()

set_target_properties(intraformer_cpu PROPERTIES EXPORT_NAME cpu)
target_include_directories(intraformer_cpu INTERFACE $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}/intraformer_fast>)
install(TARGETS intraformer_cpu EXPORT intraformer_fast LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT cpp)
if(TARGET intraformer_cuda)
  set_target_properties(intraformer_cuda PROPERTIES EXPORT_NAME cuda)
  install(TARGETS intraformer_cuda EXPORT intraformer_fast LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT cpp)
endif()

set(package ${CMAKE_INSTALL_LIBDIR}/cmake/intraformer_fast)
install(EXPORT intraformer_fast NAMESPACE intraformer_fast:: FILE targets.cmake DESTINATION ${package} COMPONENT cpp)
configure_package_config_file(cmake/intraformer_fastConfig.cmake.in ${PROJECT_BINARY_DIR}/intraformer_fastConfig.cmake
  INSTALL_DESTINATION ${package})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/intraformer_fastConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/intraformer_fastConfig.cmake ${PROJECT_BINARY_DIR}/intraformer_fastConfigVersion.cmake
  DESTINATION ${package} COMPONENT cpp)
install(FILES csrc/purity_fmi/op.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/intraformer_fast/purity_fmi COMPONENT cpp)
