// csrc/best_cosines against products written out: widths around a vector, on the grid that makes sums exact. Exit code 1 where they differ.
#include <cmath>
#include <cstdio>
#include <exception>
#include <random>
#include <vector>

#include "best_cosines/cpu_dots.h"
#include "best_cosines/op.h"

using namespace intraformer;
using namespace intraformer::best_cosines;

namespace {

bool holds(int64_t width, int64_t count, std::mt19937& random) {
  constexpr int64_t total = 50;
  const double step = std::ldexp(1.0, -24), reach = 1 / (step * std::sqrt(static_cast<double>(width)));
  const auto draw = [&] { return static_cast<float>(step * std::rint(reach * (random() / 2147483648.0 - 1))); };
  std::vector<float> rows(total * width), query(width);
  for (float& value : rows) value = draw();
  for (float& value : query) value = draw();
  std::vector<int64_t> candidates(count);
  for (int64_t& candidate : candidates) candidate = static_cast<int64_t>(random() % (total + 1)) - 1;
  std::vector<double> dots(count);
  dots_loops().dots(query.data(), rows.data(), candidates.data(), count, width, dots.data());
  for (int64_t j = 0; j < count; ++j) {
    double expected = 0;
    for (int64_t k = width - 1; candidates[j] >= 0 && k >= 0; --k) {
      expected += static_cast<double>(query[k]) * static_cast<double>(rows[candidates[j] * width + k]);
    }
    if (dots[j] != expected) return false;
  }
  return true;
}

bool keys_stand_in_order() {
  const float cosines[] = {-1, -0.5f, -1e-30f, 0, 1e-30f, 0.5f, 1};
  for (int i = 1; i < 7; ++i) {
    if (key_of(cosines[i - 1], 0) >= key_of(cosines[i], 1000)) return false;
  }
  return key_of(-0.0f, 3) == key_of(0.0f, 3) && key_of(0.25f, 4) < key_of(0.25f, 3) && NO_KEY < key_of(-1, 0x7fffffff);
}

}  // namespace

int main() {
  try {
    instruction_set();
  } catch (const std::exception&) {
    return 77;
  }
  std::mt19937 random(5);
  if (!keys_stand_in_order()) {
    std::fprintf(stderr, "keys do not stand in order\n");
    return 1;
  }
  for (const int64_t width : {1, 3, 8, 15, 16, 17, 64, 100, 513}) {
    for (const int64_t count : {1, 7, 60}) {
      if (holds(width, count, random)) continue;
      std::fprintf(stderr, "width %d, %d candidates: other products\n", static_cast<int>(width), static_cast<int>(count));
      return 1;
    }
  }
}
