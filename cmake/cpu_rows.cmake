# The vector loops, once per instruction set; the choice is made at run time (csrc/cpu/instruction_set.cpp).
set(INTRAFORMER_INSTRUCTION_SETS generic)
set(lanes_generic 4)
set(flags_generic "")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
  list(APPEND INTRAFORMER_INSTRUCTION_SETS avx2 avx512)
  set(lanes_avx2 8)
  set(flags_avx2 -mavx2 -mfma)
  set(lanes_avx512 16)
  set(flags_avx512 -mavx2 -mfma -mavx512f -mavx512bw -mavx512dq -mavx512vl)
  add_compile_definitions(INTRAFORMER_X86)
endif()

add_library(intraformer_rows OBJECT csrc/cpu/instruction_set.cpp)
foreach(set IN LISTS INTRAFORMER_INSTRUCTION_SETS)
  add_library(intraformer_rows_${set} OBJECT csrc/purity_fmi/cpu_rows.cpp)
  target_compile_definitions(intraformer_rows_${set} PRIVATE
    INTRAFORMER_LANES=${lanes_${set}} INTRAFORMER_ROW_LOOPS=${set}_rows)
  # g++ 12 takes the undefined registers inside its own AVX-512 header for ours.
  # No -ffast-math: NaN has to come through. These two only say that nobody reads errno or floating-point flags.
  target_compile_options(intraformer_rows_${set} PRIVATE
    ${flags_${set}} -O3 -fno-math-errno -fno-trapping-math -Wno-psabi -Wno-maybe-uninitialized -Wno-uninitialized)
  target_sources(intraformer_rows INTERFACE $<TARGET_OBJECTS:intraformer_rows_${set}>)
endforeach()

if(INTRAFORMER_SANITIZE)
  # -O1: compiled in half the time, and no check is optimised away.
  set(sanitize -fsanitize=${INTRAFORMER_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer -g -O1)
  add_compile_options(${sanitize})
  add_link_options(-fsanitize=${INTRAFORMER_SANITIZE})
  target_compile_options(intraformer_rows PRIVATE ${sanitize})
  foreach(set IN LISTS INTRAFORMER_INSTRUCTION_SETS)
    target_compile_options(intraformer_rows_${set} PRIVATE ${sanitize})
  endforeach()
endif()
list(JOIN INTRAFORMER_INSTRUCTION_SETS " " INTRAFORMER_INSTRUCTION_SETS)
