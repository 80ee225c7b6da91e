# The two torch libraries and the Python module that says what they were built with.
function(intraformer_library name output)
  add_library(${name} SHARED ${ARGN})
  target_link_libraries(${name} PRIVATE intraformer_torch)
  # Torch is loaded before us and its libraries are found by name: no path of the building machine is left in the file.
  set_target_properties(${name} PROPERTIES OUTPUT_NAME ${output} PREFIX "" INSTALL_RPATH "")
endfunction()

intraformer_library(intraformer_cpu _C_cpu
  csrc/library.cpp csrc/cpu/tensors.cpp csrc/purity_fmi/cpu.cpp csrc/purity_fmi/cpu_means.cpp csrc/encoder_block/cpu.cpp
  csrc/block_attention/cpu.cpp csrc/correlation_attention/cpu.cpp csrc/stream_linear/cpu.cpp csrc/intimacy/cpu.cpp
  csrc/list_search/cpu.cpp csrc/best_cosines/cpu.cpp
  $<TARGET_OBJECTS:intraformer_rows>)
target_link_libraries(intraformer_cpu PRIVATE intraformer_rows)

if(INTRAFORMER_CUDA_COMPILER)
  # A CPU build of torch has no libtorch_cuda to link with. Only its name is needed: an empty library that bears it.
  file(WRITE ${PROJECT_BINARY_DIR}/empty.cpp "")
  add_library(intraformer_torch_cuda_name SHARED ${PROJECT_BINARY_DIR}/empty.cpp)
  set_target_properties(intraformer_torch_cuda_name PROPERTIES OUTPUT_NAME torch_cuda
    LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/names)
  intraformer_library(intraformer_cuda _C_cuda csrc/purity_fmi/cuda.cu)
  target_compile_definitions(intraformer_cuda PRIVATE USE_CUDA)
  add_dependencies(intraformer_cuda intraformer_torch_cuda_name)
  target_link_options(intraformer_cuda PRIVATE -Wl,--no-as-needed $<TARGET_LINKER_FILE:intraformer_torch_cuda_name>)
  set_target_properties(intraformer_cuda PROPERTIES CUDA_RUNTIME_LIBRARY Static)
endif()

find_package(Python 3.10 COMPONENTS Interpreter Development.Module QUIET)
configure_file(csrc/build_info/build_info.h.in ${PROJECT_BINARY_DIR}/build_info/build_info.h @ONLY)
if(Python_Development.Module_FOUND)
  Python_add_library(intraformer_build_info MODULE csrc/build_info/module.cpp)
  target_include_directories(intraformer_build_info PRIVATE ${PROJECT_BINARY_DIR}/build_info)
  set_target_properties(intraformer_build_info PROPERTIES OUTPUT_NAME _build_info PREFIX "" SUFFIX .abi3.so)
else()
  message(STATUS "intraformer-fast: module _build_info not built (no Python headers)")
endif()
