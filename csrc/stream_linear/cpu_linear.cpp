// A block of rows goes through its product on one thread and stays in that core's second-level cache, a chunk of channels at a time,
// while a panel of weights after the other comes by. For the gradients of the weights, whose sums run over all rows, the blocks leave
// both factors behind: the gradients of the output by columns, and what was multiplied with the weights as panels.
#include "stream_linear/backward.h"
#include "stream_linear/blocks.h"

namespace intraformer::stream_linear {
namespace {

// ---- Packing the weights, a panel a task ----

INTRAFORMER_INLINE int64_t pack_tasks(const Job& job, bool backward) { return job.streams * panels_of(width_of(job, backward)); }

template <Precision P>
void pack(const Job& job, bool backward, int64_t task) {
  const int64_t panels = panels_of(width_of(job, backward)), stream = task / panels, n = task % panels * PANEL;
  const int64_t columns = least(PANEL, width_of(job, backward) - n);
  const Right packed = packed_of<P>(job, backward, stream);
  uint32_t* const to = const_cast<uint32_t*>(packed.words) + task % panels * packed.panel;
  const float* const weight = job.parameters[stream].weight;
  if (backward) {
    pack_panels<P>({weight + n, Element::float32, job.inputs, 1}, nullptr, job.outputs, columns, to);
  } else {
    pack_transposed<P>({weight + n * job.inputs, Element::float32, job.inputs, 1}, nullptr, columns, job.inputs, to);
  }
}

// ---- Forward, a block of rows a task ----

template <Precision P>
void forward(const Job& job, const Forward& to, int64_t task, void* memory) {
  const Block block = block_of(job, task);
  if (block.count == 0) return;
  Pieces pieces{static_cast<char*>(memory), 0};
  const Scratch s = take_scratch<P>(pieces, job, false);
  const char* residual[BLOCK_ROWS];
  char* output[BLOCK_ROWS];
  for (int64_t r = 0; r < block.count; ++r) {
    const int64_t place = place_of(job, block, r);
    residual[r] = to.residual.data == nullptr ? nullptr : row_of(to.residual, block, r);
    output[r] = static_cast<char*>(to.output) + place * job.outputs * bytes_of(to.element);
    if (job.before == Before::layer_norm) {
      const float* const x = floats_of(job.input, row_of(job.input, block, r), job.inputs, s.line);
      const Moments moments = moments_of(x, job.inputs, job.epsilon);
      job.moments[place] = moments.mean;
      job.moments[job.clusters * job.tokens + place] = moments.scale;
    }
  }
  const float* const bias = job.parameters[block.stream].bias;
  const int64_t step = row_words<P>(CHUNK<P>);
  multiply_chunks<P>(
      block.count, job.inputs, packed_of<P>(job, false, block.stream), s.operand, s.sums,
      [&](int64_t first, int64_t last) {
        for (int64_t r = 0; r < block.count; ++r) {
          uint32_t* const row = s.operand + r * step;
          factor(job, block, r, first, last, [&](int64_t c, Floats x) { put_row<P>(row, c - first, x); });
        }
      },
      [&](int64_t r, int64_t c, Floats x) {
        x += load<Floats>(bias + c);
        if (residual[r]) x += numbers_at(to.residual.element, residual[r] + c * bytes_of(to.residual.element));
        put_numbers(to.element, output[r] + c * bytes_of(to.element), x);
      });
}

// ---- The table ----

// Calls body with the precision of a job as a constant.
template <Precision P>
struct Of {
  static constexpr Precision precision = P;
};

template <typename Body>
INTRAFORMER_INLINE auto with_precision(const Job& job, Body body) {
  return job.bfloat16 ? body(Of<Precision::bfloat16>{}) : body(Of<Precision::float32>{});
}

int64_t packed_bytes_of(const Job& job, bool backward) {
  return with_precision(job, [&](auto of) { return packed_bytes<of.precision>(job, backward); });
}

int64_t kept_bytes_of(const Job& job) {
  return with_precision(job, [&](auto of) { return kept_bytes<of.precision>(job); });
}

int64_t scratch_bytes_of(const Job& job, bool backward) {
  return with_precision(job, [&](auto of) { return scratch_bytes<of.precision>(job, backward); });
}

int64_t pack_tasks_of(const Job& job, bool backward) { return pack_tasks(job, backward); }

void pack_of(const Job& job, bool backward, int64_t task) {
  with_precision(job, [&](auto of) { pack<of.precision>(job, backward, task); });
}

int64_t row_tasks_of(const Job& job) { return job.streams * blocks_of(job); }

void forward_of(const Job& job, const Forward& to, int64_t task, void* scratch) {
  with_precision(job, [&](auto of) { forward<of.precision>(job, to, task, scratch); });
}

void backward_of(const Job& job, const Backward& to, int64_t task, void* scratch) {
  with_precision(job, [&](auto of) { stream_linear::backward<of.precision>(job, to, task, scratch); });
}

int64_t weight_tasks_of(const Job& job) { return weight_tasks(job); }

void weights_of(const Job& job, const Backward& to, int64_t task) {
  with_precision(job, [&](auto of) { weights<of.precision>(job, to, task); });
}

}  // namespace

extern const LinearLoops INTRAFORMER_LINEAR_LOOPS;
const LinearLoops INTRAFORMER_LINEAR_LOOPS = {packed_bytes_of, kept_bytes_of, scratch_bytes_of, pack_tasks_of,   pack_of,
                                              row_tasks_of,    forward_of,    backward_of,      weight_tasks_of, weights_of};

}  // namespace intraformer::stream_linear
