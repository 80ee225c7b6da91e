// The inner products of best_cosines on the CPU, without torch: compiled once per instruction set, called from cpu.cpp and from tests.
#pragma once

#include <cstdint>

#include "cpu/instruction_set.h"

namespace intraformer::best_cosines {

struct DotLoops {
  // dots[j] = the inner product in float64 of query [width] and rows[candidates[j]], 0 for a candidate below 0.
  void (*dots)(const float* query, const float* rows, const int64_t* candidates, int64_t count, int64_t width, double* dots);
};

INTRAFORMER_LOOPS(DotLoops, dots, avx512)

}  // namespace intraformer::best_cosines
