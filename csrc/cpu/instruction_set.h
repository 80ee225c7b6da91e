// Which of the compiled instruction sets the CPU operators use.
#pragma once

namespace intraformer {

enum class InstructionSet { generic, avx2, avx512, avx512_vnni, avx512_bf16 };

// The best that the build holds and the processor has, or the one named in the environment variable INTRAFORMER_CPU_ISA.
// Decided at the first call. Throws std::invalid_argument where the variable names a set that cannot be used.
InstructionSet instruction_set();

const char* name(InstructionSet set);

}  // namespace intraformer

// Declares a room's tables of loops, <set>_<name>, and <name>_loops(), the one for the set in use; `best` names the table that
// serves AVX-512-BF16, which a room without products of bfloat16 does not compile for. One with products of int8 names the table
// that serves AVX-512-VNNI as well.
#define INTRAFORMER_LOOPS(Type, name, best) INTRAFORMER_INT8_LOOPS(Type, name, avx512, best)
#ifdef INTRAFORMER_X86
#define INTRAFORMER_INT8_LOOPS(Type, name, vnni, best)        \
  extern const Type generic_##name;                           \
  extern const Type avx2_##name;                              \
  extern const Type avx512_##name;                            \
  extern const Type vnni##_##name;                            \
  extern const Type best##_##name;                            \
  static inline const Type& name##_loops() {                  \
    switch (instruction_set()) {                              \
      case InstructionSet::avx512_bf16: return best##_##name; \
      case InstructionSet::avx512_vnni: return vnni##_##name; \
      case InstructionSet::avx512: return avx512_##name;      \
      case InstructionSet::avx2: return avx2_##name;          \
      case InstructionSet::generic: break;                    \
    }                                                         \
    return generic_##name;                                    \
  }
#else
#define INTRAFORMER_INT8_LOOPS(Type, name, vnni, best) \
  extern const Type generic_##name;                    \
  static inline const Type& name##_loops() { return generic_##name; }
#endif
