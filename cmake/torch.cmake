# torch's headers and libtorch_cpu, from -DTorch_DIR= or from the python on PATH. find_package(Torch) is not used: it drags in
# the CUDA toolkit that torch was built with, and the stable ABI needs neither.
set(INTRAFORMER_TORCH_TARGET 2.10)
if(Torch_DIR)
  get_filename_component(torch_root "${Torch_DIR}/../../.." ABSOLUTE)
else()
  find_package(Python 3.10 COMPONENTS Interpreter QUIET)
  if(NOT Python_EXECUTABLE)
    message(FATAL_ERROR "No python was found to ask for torch: pass -DTorch_DIR=.../torch/share/cmake/Torch")
  endif()
  # Finding the package, not importing it, which takes seconds.
  execute_process(
    COMMAND "${Python_EXECUTABLE}" -c
      "from importlib.util import find_spec; s = find_spec('torch'); print(s.submodule_search_locations[0] if s else '', end='')"
    OUTPUT_VARIABLE torch_root COMMAND_ERROR_IS_FATAL ANY)
endif()
if(NOT EXISTS "${torch_root}/include/torch/csrc/stable/ops.h")
  message(FATAL_ERROR "No torch ${INTRAFORMER_TORCH_TARGET} or later was found (${Python_EXECUTABLE}${Torch_DIR}): "
    "install it first, or pass -DTorch_DIR=.../torch/share/cmake/Torch")
endif()
file(STRINGS "${torch_root}/version.py" line REGEX "^__version__ = " LIMIT_COUNT 1)
string(REGEX REPLACE ".*'(.*)'.*" "\\1" INTRAFORMER_TORCH_VERSION "${line}")
message(STATUS "intraformer-fast: torch ${INTRAFORMER_TORCH_VERSION} at ${torch_root}")

add_library(intraformer_torch INTERFACE)
target_include_directories(intraformer_torch SYSTEM INTERFACE "${torch_root}/include")
# Only what torch 2.10 already had: one build then serves every torch from there on.
target_compile_definitions(intraformer_torch INTERFACE TORCH_TARGET_VERSION=0x020a000000000000)
target_link_libraries(intraformer_torch INTERFACE "${torch_root}/lib/libtorch_cpu.so")
# Its checks say the file they stand in: by the names it has in the project and in torch, not by those of the building machine.
foreach(folder "${torch_root}/include" "${PROJECT_SOURCE_DIR}")
  target_compile_options(intraformer_torch INTERFACE
    "$<IF:$<COMPILE_LANGUAGE:CUDA>,-Xcompiler=,>-fmacro-prefix-map=${folder}/=")
endforeach()
