#include "best_cosines/cpu_dots.h"

#include "cpu/vector.h"

namespace intraformer::best_cosines {
namespace {

// Two doubles take the room of four floats, and a register holds the same bytes.
constexpr int WIDE = LANES / 2;
using Doubles = Vector<double, WIDE>;
using Narrow = Vector<float, WIDE>;

// Rows ahead of the one that is multiplied: a few hundred cycles of work, about what memory takes to answer.
constexpr int64_t AHEAD = 8;
constexpr int64_t LINE = 64 / sizeof(float);

INTRAFORMER_INLINE Doubles widened(const float* from) { return __builtin_convertvector(load<Narrow>(from), Doubles); }

INTRAFORMER_INLINE double dot(const float* a, const float* b, int64_t width) {
  Doubles even{}, odd{};
  int64_t k = 0;
  for (; k + 2 * WIDE <= width; k += 2 * WIDE) {
    even += widened(a + k) * widened(b + k);
    odd += widened(a + k + WIDE) * widened(b + k + WIDE);
  }
  even += odd;
  double sum = 0;
  for (int lane = 0; lane < WIDE; ++lane) sum += even[lane];
  for (; k < width; ++k) sum += static_cast<double>(a[k]) * static_cast<double>(b[k]);
  return sum;
}

void dots(const float* query, const float* rows, const int64_t* candidates, int64_t count, int64_t width, double* dots) {
  for (int64_t j = 0; j < count; ++j) {
    if (j + AHEAD < count && candidates[j + AHEAD] >= 0) {
      const float* const next = rows + candidates[j + AHEAD] * width;
      for (int64_t k = 0; k < width; k += LINE) __builtin_prefetch(next + k);
    }
    dots[j] = candidates[j] < 0 ? 0 : dot(query, rows + candidates[j] * width, width);
  }
}

}  // namespace

extern const DotLoops INTRAFORMER_DOT_LOOPS;
const DotLoops INTRAFORMER_DOT_LOOPS = {dots};

}  // namespace intraformer::best_cosines
