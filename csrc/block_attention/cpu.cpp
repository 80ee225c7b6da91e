// The CPU operators of block_attention and gather_block_attention: torch tensors in and out, tasks shared out over PyTorch's threads.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "block_attention/cpu_heads.h"
#include "block_attention/op.h"
#include "cpu/tensors.h"

namespace intraformer::block_attention {
namespace {

using Three = std::tuple<Tensor, Tensor, Tensor>;

// Operations that a thread takes at least: below this the hand-over costs more than the work.
constexpr int64_t GRAIN = 1 << 20;

// Bytes of the gradients of a batch that wait to be summed up by row of the tables.
constexpr int64_t WAITING = 16 << 20;

Heads heads_of(const Tensor& t) { return {t.const_data_ptr(), t.stride(0), t.stride(1), t.stride(2), t.stride(3)}; }

// Of tables [N, H, D].
Heads table_of(const Tensor& t) { return {t.const_data_ptr(), 0, t.stride(1), t.stride(0), t.stride(2)}; }

Element checked_element(const Check& check, std::initializer_list<const Tensor*> tensors) {
  const std::optional<Element> element = element_of(**tensors.begin());
  check(
      element == Element::float32 || element == Element::bfloat16 || element == Element::float16,
      "the operands are not float32, bfloat16 or float16");
  for (const Tensor* t : tensors) {
    check(t->is_cpu() && element_of(*t) == element, "the operands are not all of one dtype on the CPU");
  }
  return *element;
}

bool same_shape(const Tensor& a, const Tensor& b) {
  bool same = a.dim() == b.dim();
  for (int64_t i = 0; same && i < a.dim(); ++i) same = a.size(i) == b.size(i);
  return same;
}

Job job_of(Element element, int64_t clusters, int64_t heads, int64_t tokens, int64_t width, int64_t blocks, double scale) {
  Job job{};
  job.element = element;
  job.bfloat16 = element == Element::bfloat16 && instruction_set() == InstructionSet::avx512_bf16;
  job.clusters = clusters, job.heads = heads, job.tokens = tokens, job.width = width;
  job.blocks = std::min(blocks, std::max<int64_t>(tokens, 1));  // those past the last token are empty
  job.scale = static_cast<float>(scale);
  return job;
}

int64_t grain_of(const Job& job) {
  const int64_t length = (job.tokens + job.blocks - 1) / job.blocks;
  return std::max<int64_t>(1, GRAIN / std::max<int64_t>(1, 4 * length * length * job.width));
}

bool is_empty(const Job& job) { return job.clusters == 0 || job.heads == 0 || job.tokens == 0 || job.width == 0; }

// [B, H, n, D] over the memory of a [B, n, H, D]: the heads of a token side by side, as the model goes on with them.
struct Output {
  Tensor memory;

  Output(const Tensor& like, const Job& job) : memory(new_empty(like, {job.clusters, job.tokens, job.heads, job.width})) {}
  void* data() const { return memory.mutable_data_ptr(); }
  Tensor heads() const { return torch::stable::transpose(memory, 1, 2); }
};

Tensor run_forward(const Job& job, const Tensor& like) {
  const Output output(like, job);
  if (!is_empty(job)) {
    const HeadLoops& loops = heads_loops();
    void* const data = output.data();
    for_each_task(tasks(job), grain_of(job), loops.scratch_bytes(job, false), [&](int64_t task, void* memory) {
      loops.forward(job, data, task, memory);
    });
  }
  return output.heads();
}

void run_backward(const Job& job, const Gradients& gradients) {
  const HeadLoops& loops = heads_loops();
  for_each_task(tasks(job), grain_of(job), loops.scratch_bytes(job, true), [&](int64_t task, void* memory) {
    loops.backward(job, gradients, task, memory);
  });
}

// ---- block_attention ----

constexpr Check check_block{"block_attention"};

// `rows` keeps what the job points to.
Job block_job(
    const Tensor& q,
    const Tensor& k,
    const Tensor& v,
    const std::optional<Tensor>& valid,
    int64_t num_blocks,
    double scale,
    std::vector<int64_t>& rows) {
  check_block(q.dim() == 4 && same_shape(q, k) && same_shape(q, v), "q, k and v are not of one shape [B, H, n, D]");
  check_block(num_blocks > 0, "num_blocks is not positive");
  const Element element = checked_element(check_block, {&q, &k, &v});
  Job job = job_of(element, q.size(0), q.size(1), q.size(2), q.size(3), num_blocks, scale);
  job.query = heads_of(q), job.key = heads_of(k), job.value = heads_of(v);
  job.in_order = true;
  if (valid.has_value()) {
    check_block(is_mask(*valid, job.clusters, job.tokens), "valid is not bool [B, n] on the CPU");
    const bool* const mask = static_cast<const bool*>(valid->const_data_ptr());
    rows.resize(job.clusters * job.tokens);
    for (int64_t b = 0; b < job.clusters; ++b) {
      for (int64_t t = 0; t < job.tokens; ++t) {
        rows[b * job.tokens + t] = mask[b * valid->stride(0) + t * valid->stride(1)] ? t : -1;
      }
    }
    job.rows = rows.data();
  }
  return job;
}

Tensor forward(
    const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& valid, int64_t num_blocks, double scale) {
  std::vector<int64_t> rows;
  return run_forward(block_job(q, k, v, valid, num_blocks, scale, rows), q);
}

Three backward(
    const Tensor& grad,
    const Tensor& q,
    const Tensor& k,
    const Tensor& v,
    const std::optional<Tensor>& valid,
    int64_t num_blocks,
    double scale) {
  std::vector<int64_t> rows;
  const Job job = block_job(q, k, v, valid, num_blocks, scale, rows);
  check_block(same_shape(grad, q), "the gradient is not of the shape of the output");
  checked_element(check_block, {&q, &grad});
  const Output query(q, job), key(q, job), value(q, job);
  if (!is_empty(job)) run_backward(job, {heads_of(grad), job.element, query.data(), key.data(), value.data()});
  return {query.heads(), key.heads(), value.heads()};
}

// ---- gather_block_attention ----

constexpr Check check_gather{"gather_block_attention"};

template <typename Id>
void copy_ids(const Tensor& neighbors, int64_t table_rows, std::vector<int64_t>& rows) {
  const Id* const ids = static_cast<const Id*>(neighbors.const_data_ptr());
  const int64_t n = neighbors.size(1);
  for (int64_t b = 0; b < neighbors.size(0); ++b) {
    for (int64_t t = 0; t < n; ++t) {
      const int64_t id = ids[b * neighbors.stride(0) + t * neighbors.stride(1)];
      if (id >= table_rows) {
        // Python's IndexError.
        throw std::out_of_range(
            "neighbors[" + std::to_string(b) + ", " + std::to_string(t) + "] is " + std::to_string(id) +
            ", and the tables have " + std::to_string(table_rows) + " rows");
      }
      rows[b * n + t] = id;
    }
  }
}

Job gather_job(
    const Tensor& q,
    const Tensor& k,
    const Tensor& v,
    const Tensor& neighbors,
    int64_t num_blocks,
    double scale,
    std::vector<int64_t>& rows) {
  check_gather(q.dim() == 3 && same_shape(q, k) && same_shape(q, v), "the tables are not of one shape [N, H, D]");
  check_gather(num_blocks > 0, "num_blocks is not positive");
  const ScalarType ids = neighbors.scalar_type();
  check_gather(
      neighbors.is_cpu() && neighbors.dim() == 2 && (ids == ScalarType::Long || ids == ScalarType::Int),
      "neighbors is not int32 or int64 [B, n] on the CPU");
  const Element element = checked_element(check_gather, {&q, &k, &v});
  Job job = job_of(element, neighbors.size(0), q.size(1), neighbors.size(1), q.size(2), num_blocks, scale);
  job.query = table_of(q), job.key = table_of(k), job.value = table_of(v);
  rows.resize(neighbors.numel());
  ids == ScalarType::Long ? copy_ids<int64_t>(neighbors, q.size(0), rows) : copy_ids<int32_t>(neighbors, q.size(0), rows);
  job.rows = rows.data();
  return job;
}

Tensor gather_forward(
    const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& neighbors, int64_t num_blocks, double scale) {
  std::vector<int64_t> rows;
  return run_forward(gather_job(q, k, v, neighbors, num_blocks, scale, rows), q);
}

// Adds rows of `from`, [count, width], to the rows of `sums` that `numbers` [count] names. A row of sums belongs to one thread,
// which goes through its own in their order: the same bits on any threads, and however a batch is cut.
void add_by_row(const int64_t* numbers, int64_t count, int64_t width, const float* const (&from)[3], float* const (&sums)[3]) {
  std::vector<int64_t> order;
  for (int64_t i = 0; i < count; ++i) {
    if (numbers[i] >= 0) order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return numbers[a] < numbers[b]; });
  std::vector<int64_t> starts;
  const int64_t used = static_cast<int64_t>(order.size());
  for (int64_t i = 0; i < used; ++i) {
    if (i == 0 || numbers[order[i]] != numbers[order[i - 1]]) starts.push_back(i);
  }
  const int64_t runs = static_cast<int64_t>(starts.size());
  starts.push_back(used);
  for_each_task(runs, std::max<int64_t>(1, 4096 / width), 0, [&](int64_t run, void*) {
    for (int table = 0; table < 3; ++table) {
      float* const sum = sums[table] + numbers[order[starts[run]]] * width;
      for (int64_t i = starts[run]; i < starts[run + 1]; ++i) {
        const float* const row = from[table] + order[i] * width;
        for (int64_t c = 0; c < width; ++c) sum[c] += row[c];
      }
    }
  });
}

Three gather_backward(
    const Tensor& grad,
    const Tensor& q,
    const Tensor& k,
    const Tensor& v,
    const Tensor& neighbors,
    int64_t num_blocks,
    double scale) {
  std::vector<int64_t> rows;
  const Job job = gather_job(q, k, v, neighbors, num_blocks, scale, rows);
  check_gather(
      grad.dim() == 4 && grad.size(0) == job.clusters && grad.size(1) == job.heads && grad.size(2) == job.tokens &&
          grad.size(3) == job.width,
      "the gradient is not of the shape of the output");
  checked_element(check_gather, {&q, &grad});
  const int64_t table_rows = q.size(0), width = job.heads * job.width;
  Tensor sums[3], tables[3];
  for (int i = 0; i < 3; ++i) {
    sums[i] = torch::stable::new_zeros(q, {table_rows, job.heads, job.width}, ScalarType::Float);
    tables[i] = job.element == Element::float32 ? sums[i] : new_empty(q, {table_rows, job.heads, job.width});
  }
  if (!is_empty(job)) {
    const int64_t a_cluster = job.tokens * width;
    const int64_t together = std::clamp<int64_t>(WAITING / (12 * a_cluster), 1, job.clusters);
    const Tensor waiting = new_empty(q, {3, together, a_cluster}, ScalarType::Float);
    float* const parts = static_cast<float*>(waiting.mutable_data_ptr());
    float* const from[3] = {parts, parts + together * a_cluster, parts + 2 * together * a_cluster};
    float* to[3];
    for (int i = 0; i < 3; ++i) to[i] = static_cast<float*>(sums[i].mutable_data_ptr());
    const int64_t size = job.element == Element::float32 ? 4 : 2;
    for (int64_t first = 0; first < job.clusters; first += together) {
      Job some = job;
      some.clusters = std::min(together, job.clusters - first);
      some.rows = job.rows + first * job.tokens;
      Heads heads = heads_of(grad);
      heads.data = static_cast<const char*>(heads.data) + first * heads.cluster * size;
      run_backward(some, {heads, Element::float32, from[0], from[1], from[2]});
      add_by_row(some.rows, some.clusters * job.tokens, width, {from[0], from[1], from[2]}, {to[0], to[1], to[2]});
    }
  }
  if (job.element != Element::float32) {
    for (int i = 0; i < 3; ++i) torch::stable::copy_(tables[i], sums[i]);
  }
  return {tables[0], tables[1], tables[2]};
}

}  // namespace
}  // namespace intraformer::block_attention

// Python defines the schemas (intraformer_fast/ops/).
STABLE_TORCH_LIBRARY_IMPL(intraformer_fast, CPU, library) {
  library.impl("block_attention", TORCH_BOX(&intraformer::block_attention::forward));
  library.impl("block_attention_backward", TORCH_BOX(&intraformer::block_attention::backward));
  library.impl("gather_block_attention", TORCH_BOX(&intraformer::block_attention::gather_forward));
  library.impl("gather_block_attention_backward", TORCH_BOX(&intraformer::block_attention::gather_backward));
}
