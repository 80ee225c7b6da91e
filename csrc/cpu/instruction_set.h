// Which of the compiled instruction sets the CPU operators use.
#pragma once

namespace intraformer {

enum class InstructionSet { generic, avx2, avx512, avx512_bf16 };

// The best that the build holds and the processor has, or the one named in the environment variable INTRAFORMER_CPU_ISA.
// Decided at the first call. Throws std::invalid_argument where the variable names a set that cannot be used.
InstructionSet instruction_set();

const char* name(InstructionSet set);

}  // namespace intraformer
