// The rows of a list are A as they lie in memory, and PANEL of its queries at a time are packed as B: a list has more rows than it
// has queries of one task, so that packing those is the lesser work.
#include "list_search/cpu_lists.h"

#include "cpu/gemm.h"

namespace intraformer::list_search {
namespace {

// No score is at least that, not even infinity.
constexpr float NEVER = __builtin_nanf("");

int64_t scratch_bytes(int64_t width) { return width * PANEL * static_cast<int64_t>(sizeof(uint32_t)); }

void scan(const List& list, const Queries& queries, const float* floor, Push push, const Found& found, void* scratch) {
  uint32_t* const panel = static_cast<uint32_t*>(scratch);
  const Left a{reinterpret_cast<const uint32_t*>(list.rows), list.width};
  for (int64_t begin = 0; begin < queries.count; begin += PANEL) {
    const int32_t* const asking = queries.asking + begin;
    const int64_t columns = least(PANEL, queries.count - begin);
    alignas(64) float floors[PANEL];
    for (int64_t n = 0; n < PANEL; ++n) {
      floors[n] = n < columns ? floor[asking[n]] : NEVER;
      if (n >= columns) continue;
      const float* const row = queries.rows + asking[n] * list.width;
      for (int64_t k = 0; k < list.width; ++k) panel[k * PANEL + n] = bits<uint32_t>(row[k]);
    }
    multiply<Precision::float32>(
        a, list.size, {panel, list.width * PANEL, list.width, columns},
        [&](int64_t first, int64_t rows, int64_t, const float* sums) {
          for (int64_t r = 0; r < rows; ++r) {
            for (int64_t c = 0; c < columns; c += LANES) {
              const float* const scores = sums + r * PANEL + c;
              for (uint32_t lanes = lanes_at_least(load<Floats>(scores), load<Floats>(floors + c)); lanes; lanes &= lanes - 1) {
                const int lane = __builtin_ctz(lanes);
                const int32_t query = asking[c + lane];
                push(found, query, scores[lane], list.first + first + r);
                floors[c + lane] = floor[query];
              }
            }
          }
        });
  }
}

}  // namespace

extern const ListLoops INTRAFORMER_LIST_LOOPS;
const ListLoops INTRAFORMER_LIST_LOOPS = {scratch_bytes, scan};

}  // namespace intraformer::list_search
