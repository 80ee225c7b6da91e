#include "cpu/peak.h"

#include "cpu/gemm.h"

namespace intraformer {
namespace {

// As many sums as a tile has: the additions of one wait for each other, those of all of them do not.
constexpr int SUMS = 2 * TILE_ROWS;

template <Precision P>
__attribute__((noinline)) float multiply(int64_t steps) {
  Floats sums[SUMS] = {};
  Words a = Words{} + 0x3f803f80u, b = a;  // ones
  asm("" : "+m"(a), "+m"(b));              // which the compiler is not to know
  for (int64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 32
    for (int s = 0; s < SUMS; ++s) sums[s] = add_products<P>(sums[s], a, b);
  }
  Floats all{};
  for (int s = 0; s < SUMS; ++s) all += sums[s];
  return sum_of_lanes<float, LANES>(all);
}

float multiply_of(int64_t steps, bool bfloat16) {
  return bfloat16 ? multiply<Precision::bfloat16>(steps) : multiply<Precision::float32>(steps);
}

int64_t flops_a_step(bool bfloat16) {
  return 2 * SUMS * LANES * (bfloat16 ? PACK<Precision::bfloat16> : PACK<Precision::float32>);
}

}  // namespace

extern const PeakLoops INTRAFORMER_PEAK_LOOPS;
const PeakLoops INTRAFORMER_PEAK_LOOPS = {multiply_of, flops_a_step};

}  // namespace intraformer
