// csrc/list_search against scores written out: every list size around a tile and a panel. Exit code 1 where they differ.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <vector>

#include "list_search/cpu_lists.h"
#include "list_search/op.h"

using namespace intraformer;
using namespace intraformer::list_search;

namespace {

void push(const Found& found, int64_t query, float score, int64_t place) { found.push(query, score, place); }

bool holds(int64_t size, int64_t queries, int64_t width, int64_t count, std::mt19937& random) {
  // Whole numbers: sums are exact in any order, and many are equal.
  const auto draw = [&](int64_t n) {
    std::vector<float> values(n);
    for (float& value : values) value = static_cast<float>(static_cast<int>(random() % 7) - 3);
    return values;
  };
  const std::vector<float> rows = draw(size * width), asked = draw(queries * width);
  std::vector<int32_t> asking;
  for (int32_t i = 0; i < queries; i += 1 + static_cast<int32_t>(random() % 2)) asking.push_back(i);
  const int64_t capacity = 2 * count;
  std::vector<uint64_t> keys(queries * capacity);
  std::vector<int32_t> held(queries, 0);
  std::vector<float> floor(queries, -std::numeric_limits<float>::infinity());
  const Found found{keys.data(), held.data(), floor.data(), capacity, count};
  const ListLoops& loops = lists_loops();
  void* const scratch = std::aligned_alloc(64, (loops.scratch_bytes(width) + 63) / 64 * 64);
  constexpr int64_t first = 1000;
  loops.scan(
      {rows.data(), size, width, first}, {asked.data(), asking.data(), static_cast<int64_t>(asking.size())}, floor.data(), push,
      found, scratch);
  std::free(scratch);
  size_t next = 0;
  for (int64_t i = 0; i < queries; ++i) {
    if (next == asking.size() || asking[next] != i) {
      if (held[i] != 0) return false;
      continue;
    }
    ++next;
    std::vector<uint64_t> expected;
    for (int64_t j = 0; j < size; ++j) {
      float score = 0;
      for (int64_t k = 0; k < width; ++k) score += rows[j * width + k] * asked[i * width + k];
      expected.push_back(key_of(score, first + j));
      if (score_of(expected.back()) != score || place_of(expected.back()) != first + j) return false;
    }
    std::sort(expected.begin(), expected.end(), std::greater<>());
    uint64_t* const own = keys.data() + i * capacity;
    std::sort(own, own + held[i], std::greater<>());
    const int64_t kept = std::min<int64_t>(size, count);
    if (held[i] < kept || !std::equal(own, own + kept, expected.begin())) return false;
  }
  return true;
}

}  // namespace

int main() {
  try {
    instruction_set();
  } catch (const std::exception&) {
    return 77;
  }
  std::mt19937 random(3);
  for (const int64_t size : {1, 13, 14, 15, 29, 300}) {
    for (const int64_t queries : {1, 5, 40, 90}) {
      for (const int64_t width : {1, 16, 33}) {
        for (const int64_t count : {1, 12}) {
          if (holds(size, queries, width, count, random)) continue;
          std::printf("%ld rows, %ld queries of width %ld, the best %ld: others\n", size, queries, width, count);
          return 1;
        }
      }
    }
  }
  return 0;
}
