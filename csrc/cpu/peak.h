// How fast the processor multiplies when it does nothing else: what the operators are measured against.
#pragma once

#include <cstdint>

#include "cpu/instruction_set.h"

namespace intraformer {

struct PeakLoops {
  // Multiplies and adds in registers alone. Returns something that depends on all of it.
  float (*multiply)(int64_t steps, bool bfloat16);
  int64_t (*flops_a_step)(bool bfloat16);
};

INTRAFORMER_LOOPS(PeakLoops, peak, avx512_bf16)

}  // namespace intraformer
