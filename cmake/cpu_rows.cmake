# The vector loops, once for each instruction set; the choice is made at run time (csrc/cpu/instruction_set.cpp).
set(INTRAFORMER_INSTRUCTION_SETS generic)
set(lanes_generic 4)
set(flags_generic "")
if(INTRAFORMER_X86 AND CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
  list(APPEND INTRAFORMER_INSTRUCTION_SETS avx2 avx512 avx512_vnni avx512_bf16)
  set(lanes_avx2 8)
  set(flags_avx2 -mavx2 -mfma)
  set(lanes_avx512 16)
  set(flags_avx512 -mavx2 -mfma -mavx512f -mavx512bw -mavx512dq -mavx512vl)
  set(lanes_avx512_vnni 16)
  set(flags_avx512_vnni ${flags_avx512} -mavx512vnni)
  set(lanes_avx512_bf16 16)
  set(flags_avx512_bf16 ${flags_avx512_vnni} -mavx512bf16)
  add_compile_definitions(INTRAFORMER_X86)
endif()

if(INTRAFORMER_SANITIZE)
  # -O1: compiled in half the time, and no check is optimised away.
  set(sanitize -fsanitize=${INTRAFORMER_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer -g1 -O1)
  add_compile_options(${sanitize})
  add_link_options(-fsanitize=${INTRAFORMER_SANITIZE})
endif()

add_library(intraformer_rows OBJECT csrc/cpu/instruction_set.cpp)

# No -ffast-math: NaN has to come through. These two only say that nobody reads errno or floating-point flags.
# g++ 12 takes the undefined registers inside its own AVX-512 header for ours.
set(optimization -O3)
if(INTRAFORMER_SANITIZE)
  set(optimization -O1)
endif()
set(INTRAFORMER_LOOP_OPTIONS
  ${optimization} -fno-math-errno -fno-trapping-math -Wno-psabi -Wno-maybe-uninitialized -Wno-uninitialized)

# Compiles a room's loops for the sets named. Each object defines the table `<set>_<name>`, which the source knows as `macro`.
function(intraformer_loops name macro source)
  foreach(set IN LISTS ARGN)
    if(NOT set IN_LIST INTRAFORMER_INSTRUCTION_SETS)
      continue()
    endif()
    set(target intraformer_${name}_${set})
    add_library(${target} OBJECT ${source})
    target_compile_definitions(${target} PRIVATE INTRAFORMER_LANES=${lanes_${set}} ${macro}=${set}_${name})
    target_compile_options(${target} PRIVATE ${INTRAFORMER_LOOP_OPTIONS} ${flags_${set}})
    target_sources(intraformer_rows INTERFACE $<TARGET_OBJECTS:${target}>)
  endforeach()
endfunction()

intraformer_loops(rows INTRAFORMER_ROW_LOOPS csrc/purity_fmi/cpu_rows.cpp generic avx2 avx512)
intraformer_loops(block INTRAFORMER_BLOCK_LOOPS csrc/encoder_block/cpu_block.cpp generic avx2 avx512 avx512_vnni avx512_bf16)
intraformer_loops(peak INTRAFORMER_PEAK_LOOPS csrc/cpu/peak.cpp generic avx2 avx512 avx512_bf16)
intraformer_loops(heads INTRAFORMER_HEAD_LOOPS csrc/block_attention/cpu_heads.cpp generic avx2 avx512 avx512_bf16)
intraformer_loops(streams INTRAFORMER_STREAM_LOOPS csrc/correlation_attention/cpu_streams.cpp generic avx2 avx512 avx512_bf16)
intraformer_loops(linear INTRAFORMER_LINEAR_LOOPS csrc/stream_linear/cpu_linear.cpp generic avx2 avx512 avx512_bf16)
intraformer_loops(lists INTRAFORMER_LIST_LOOPS csrc/list_search/cpu_lists.cpp generic avx2 avx512)
intraformer_loops(dots INTRAFORMER_DOT_LOOPS csrc/best_cosines/cpu_dots.cpp generic avx2 avx512)
list(JOIN INTRAFORMER_INSTRUCTION_SETS " " INTRAFORMER_INSTRUCTION_SETS)
