// The CPU operator of best_cosines: tensors in and out, the queries shared out over PyTorch's threads.
#include "best_cosines/op.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <vector>

#include "best_cosines/cpu_dots.h"
#include "cpu/tensors.h"

namespace intraformer::best_cosines {
namespace {

constexpr Check check{"best_cosines"};

// Queries of a task: what a task costs besides is little, and the last one is waited for.
constexpr int64_t TOGETHER = 64;

bool is_contiguous(const Tensor& t, ScalarType type, int64_t dimensions) {
  return t.is_cpu() && t.scalar_type() == type && t.dim() == dimensions && t.is_contiguous();
}

Tensor best(const Tensor& rows, const Tensor& inverse_norm, const Tensor& queries, const Tensor& candidates, int64_t count) {
  check(is_contiguous(rows, ScalarType::Float, 2), "rows is not a contiguous float32 [N, d] on the CPU");
  const int64_t total = rows.size(0), width = rows.size(1);
  check(total <= std::numeric_limits<int32_t>::max(), "there are more rows than int32 can number");
  check(
      is_contiguous(inverse_norm, ScalarType::Double, 1) && inverse_norm.size(0) == total,
      "inverse_norm is not a contiguous float64 [N] on the CPU");
  check(is_contiguous(queries, ScalarType::Long, 1), "queries is not a contiguous int64 [b] on the CPU");
  const int64_t number = queries.size(0);
  check(
      is_contiguous(candidates, ScalarType::Long, 2) && candidates.size(0) == number,
      "candidates is not a contiguous int64 [b, m] on the CPU");
  const int64_t each = candidates.size(1);
  check(count >= 1 && count <= each + 1, "count is not from 1 to m + 1");
  const int64_t* const query = static_cast<const int64_t*>(queries.const_data_ptr());
  const int64_t* const candidate = static_cast<const int64_t*>(candidates.const_data_ptr());
  for (int64_t i = 0; i < number; ++i) check(query[i] >= 0 && query[i] < total, "a query is no row");
  for (int64_t i = 0; i < number * each; ++i) check(candidate[i] >= -1 && candidate[i] < total, "a candidate is no row");

  const Tensor keys = new_empty(rows, {number, count}, ScalarType::Long);
  int64_t* const result = static_cast<int64_t*>(keys.mutable_data_ptr());
  const float* const row = static_cast<const float*>(rows.const_data_ptr());
  const double* const inverse = static_cast<const double*>(inverse_norm.const_data_ptr());
  const DotLoops& loops = dots_loops();
  for_each_task((number + TOGETHER - 1) / TOGETHER, 1, 0, [&](int64_t task, void*) {
    std::vector<double> dots(each);
    std::vector<int64_t> found(each + 1);
    for (int64_t i = task * TOGETHER; i < std::min(number, (task + 1) * TOGETHER); ++i) {
      const int64_t* const own = candidate + i * each;
      loops.dots(row + query[i] * width, row, own, each, width, dots.data());
      int64_t kept = 0;
      found[kept++] = key_of(std::numeric_limits<float>::infinity(), query[i]);
      for (int64_t j = 0; j < each; ++j) {
        if (own[j] < 0 || own[j] == query[i]) continue;
        found[kept++] = key_of(static_cast<float>(dots[j] * (inverse[query[i]] * inverse[own[j]])), own[j]);
      }
      const int64_t best = std::min(kept, count);
      std::partial_sort(found.begin(), found.begin() + best, found.begin() + kept, std::greater<>());
      std::copy_n(found.begin(), best, result + i * count);
      std::fill(result + i * count + best, result + (i + 1) * count, NO_KEY);
    }
  });
  return keys;
}

}  // namespace
}  // namespace intraformer::best_cosines

STABLE_TORCH_LIBRARY_IMPL(intraformer_fast, CPU, library) {
  library.impl("best_cosines", TORCH_BOX(&intraformer::best_cosines::best));
}
