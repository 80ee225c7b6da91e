// The CPU operator of list_search: tensors in and out, the queries shared out over PyTorch's threads.
#include <torch/csrc/stable/library.h>

#include <limits>
#include <tuple>
#include <vector>

#include "cpu/tensors.h"
#include "list_search/cpu_lists.h"
#include "list_search/op.h"

namespace intraformer::list_search {
namespace {

constexpr Check check{"list_search"};

// Queries of a task: fewer leave the panels of a list's queries half empty, more keep their candidates out of the cache.
constexpr int64_t FEWEST = 256, MOST = 4096;

template <typename T>
bool is_matrix(const Tensor& t, ScalarType type, T columns) {
  return t.is_cpu() && t.dim() == 2 && t.scalar_type() == type && t.is_contiguous() && t.size(1) == columns;
}

template <typename T>
const T* data_of(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}

void push(const Found& found, int64_t query, float score, int64_t place) { found.push(query, score, place); }

// Numbers from 0 on in the order of the lists they belong to: those of list l are members[starts[l] : starts[l + 1]].
struct ByList {
  std::vector<int64_t> starts;
  std::vector<int32_t> members;

  // `list_of(i)` for i below `count`; the member is i / each.
  template <typename ListOf>
  ByList(int64_t lists, int64_t count, int64_t each, ListOf&& list_of) : starts(lists + 1), members(count) {
    for (int64_t i = 0; i < count; ++i) ++starts[list_of(i) + 1];
    for (int64_t l = 0; l < lists; ++l) starts[l + 1] += starts[l];
    std::vector<int64_t> next(starts.begin(), starts.end() - 1);
    for (int64_t i = 0; i < count; ++i) members[next[list_of(i)]++] = static_cast<int32_t>(i / each);
  }
};

std::tuple<Tensor, Tensor> search(
    const Tensor& rows, const Tensor& starts, const Tensor& queries, const Tensor& probes, int64_t count) {
  check(
      rows.dim() == 2 && is_matrix(rows, ScalarType::Float, rows.size(1)), "rows is not a contiguous float32 [N, d] on the CPU");
  const int64_t total = rows.size(0), width = rows.size(1);
  check(total <= std::numeric_limits<int32_t>::max(), "there are more rows than int32 can number");
  check(
      starts.is_cpu() && starts.dim() == 1 && starts.scalar_type() == ScalarType::Long && starts.is_contiguous() &&
          starts.size(0) > 0,
      "starts is not a contiguous int64 [L + 1] on the CPU");
  check(width > 0 && is_matrix(queries, ScalarType::Float, width), "queries is not a contiguous float32 [b, d] as wide as rows");
  const int64_t number = queries.size(0);
  check(
      probes.dim() == 2 && is_matrix(probes, ScalarType::Int, probes.size(1)) && probes.size(0) == number && probes.size(1) > 0,
      "probes is not a contiguous int32 [b, p] with p of at least 1 on the CPU");
  check(count >= 1 && count <= std::numeric_limits<int32_t>::max() / 2, "count is not at least 1");
  const int64_t lists = starts.size(0) - 1, each = probes.size(1);
  const int64_t* const start = data_of<int64_t>(starts);
  check(start[0] == 0 && start[lists] == total, "starts does not run from 0 to the number of rows");
  for (int64_t l = 0; l < lists; ++l) check(start[l] <= start[l + 1], "starts does not rise");
  const int32_t* const probe = data_of<int32_t>(probes);
  for (int64_t i = 0; i < number * each; ++i) check(probe[i] >= 0 && probe[i] < lists, "a probe is no list");

  const Tensor places = new_empty(rows, {number, count}, ScalarType::Long);
  const Tensor scores = new_empty(rows, {number, count}, ScalarType::Float);
  int64_t* const place = static_cast<int64_t*>(places.mutable_data_ptr());
  float* const score = static_cast<float*>(scores.mutable_data_ptr());
  // Queries whose nearest lists follow each other share most of their lists: their task has fuller panels.
  const ByList order(lists, number, 1, [&](int64_t i) { return probe[i * each]; });
  const float* const query = data_of<float>(queries);
  const ListLoops& loops = lists_loops();
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t task_queries = std::clamp((number + threads - 1) / threads, FEWEST, MOST);
  const int64_t tasks = (number + task_queries - 1) / task_queries;
  for_each_task(tasks, 1, loops.scratch_bytes(width), [&](int64_t task, void* memory) {
    const int64_t begin = task * task_queries, size = std::min(task_queries, number - begin);
    const int32_t* const of = order.members.data() + begin;
    const int64_t capacity = 2 * count;
    std::vector<float> own_rows(size * width);
    for (int64_t i = 0; i < size; ++i) std::copy_n(query + of[i] * width, width, own_rows.data() + i * width);
    std::vector<uint64_t> keys(size * capacity);
    std::vector<int32_t> held(size, 0);
    std::vector<float> floor(size, -std::numeric_limits<float>::infinity());
    const Found found{keys.data(), held.data(), floor.data(), capacity, count};
    const ByList asking(lists, size * each, each, [&](int64_t i) { return probe[of[i / each] * each + i % each]; });
    for (int64_t l = 0; l < lists; ++l) {
      const List list{data_of<float>(rows) + start[l] * width, start[l + 1] - start[l], width, start[l]};
      const int64_t first = asking.starts[l], past = asking.starts[l + 1];
      if (first == past || list.size == 0) continue;
      loops.scan(list, {own_rows.data(), asking.members.data() + first, past - first}, floor.data(), push, found, memory);
    }
    for (int64_t i = 0; i < size; ++i) {
      uint64_t* const own = found.keys + i * capacity;
      const int64_t kept = std::min<int64_t>(held[i], count), at = of[i] * count;
      std::nth_element(own, own + kept, own + held[i], std::greater<>());
      std::sort(own, own + kept, std::greater<>());
      for (int64_t j = 0; j < count; ++j) {
        const bool there = j < kept;
        place[at + j] = there ? place_of(own[j]) : -1;
        score[at + j] = there ? score_of(own[j]) : -std::numeric_limits<float>::infinity();
      }
    }
  });
  return {places, scores};
}

}  // namespace
}  // namespace intraformer::list_search

STABLE_TORCH_LIBRARY_IMPL(intraformer_fast, CPU, library) {
  library.impl("list_search", TORCH_BOX(&intraformer::list_search::search));
}
