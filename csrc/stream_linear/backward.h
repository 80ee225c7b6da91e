// The gradients of the input, a block of rows a task, and those of the parameters out of what the blocks leave behind.
//
// Included by the file that is compiled once per instruction set; the rules of vector.h hold here too.
#pragma once

#include "stream_linear/blocks.h"

namespace intraformer::stream_linear {
namespace {

// ---- Backward ----

// What the blocks of rows leave behind for the gradients of the parameters.
struct Kept {
  uint32_t* grads;   // [streams][parts][words along the rows][OUTPUTS_A_PART], two rows to a word of bfloat16
  uint32_t* factor;  // [streams] panels whose K are the rows
  float* norms;      // [streams][blocks][2][inputs], the sums of a block for norm_weight and norm_bias
  int64_t steps;     // words along the rows, of the longest stream
  int64_t a_panel;   // words from one panel to the next
  int64_t parts, panels, blocks;

  INTRAFORMER_INLINE uint32_t* part(const Kept& kept, int64_t stream, int64_t part) {
    return kept.grads + (stream * kept.parts + part) * kept.steps * OUTPUTS_A_PART;
  }
  INTRAFORMER_INLINE uint32_t* panel(const Kept& kept, int64_t stream, int64_t panel) {
    return kept.factor + (stream * kept.panels + panel) * kept.a_panel;
  }
};

template <Precision P>
INTRAFORMER_INLINE Kept take_kept(Pieces& pieces, const Job& job) {
  Kept kept{};
  kept.steps = words_of<P>(longest(job));
  kept.a_panel = (kept.steps | 1) * PANEL;  // odd, lest the places of a row in all panels share a cache set
  kept.parts = parts_of(job), kept.panels = panels_of(job.inputs), kept.blocks = blocks_of(job);
  kept.grads = Pieces::next<uint32_t>(pieces, job.streams * kept.parts * kept.steps * OUTPUTS_A_PART);
  kept.factor = Pieces::next<uint32_t>(pieces, job.streams * kept.panels * kept.a_panel);
  const int64_t norms = job.before == Before::layer_norm ? job.streams * kept.blocks * 2 * job.inputs : 0;
  kept.norms = Pieces::next<float>(pieces, norms);
  return kept;
}

template <Precision P>
int64_t kept_bytes(const Job& job) {
  Pieces pieces{nullptr, 0};
  take_kept<P>(pieces, job);
  return pieces.used;
}

// Adds to the sums of the block for norm_weight and norm_bias, and writes the gradient of the input.
INTRAFORMER_INLINE void norm_backward(
    const Job& job, const Parameters& p, const float* x, const Moments& moments, const float* grad, float* sums, char* to) {
  Floats all{}, along{};
  for (int64_t c = 0; c < job.inputs; c += LANES) {
    const Floats g = load<Floats>(grad + c), z = (load<Floats>(x + c) - moments.mean) * moments.scale;
    store(sums + c, load<Floats>(sums + c) + g * z);
    store(sums + job.inputs + c, load<Floats>(sums + job.inputs + c) + g);
    const Floats weighted = g * load<Floats>(p.norm_weight + c);
    all += weighted, along += weighted * z;
  }
  const float mean = sum_of_lanes<float, LANES>(all) / static_cast<float>(job.inputs);
  const float slope = sum_of_lanes<float, LANES>(along) / static_cast<float>(job.inputs);
  for (int64_t c = 0; c < job.inputs; c += LANES) {
    const Floats z = (load<Floats>(x + c) - moments.mean) * moments.scale;
    const Floats weighted = load<Floats>(grad + c) * load<Floats>(p.norm_weight + c);
    put_numbers(job.input.element, to + c * bytes_of(job.input.element), (weighted - mean - z * slope) * moments.scale);
  }
}

template <Precision P>
void backward(const Job& job, const Backward& to, int64_t task, void* memory) {
  const Block block = block_of(job, task);
  if (block.count == 0) return;
  Pieces kept_pieces{static_cast<char*>(to.kept), 0}, pieces{static_cast<char*>(memory), 0};
  const Kept kept = take_kept<P>(kept_pieces, job);
  const Scratch s = take_scratch<P>(pieces, job, true);
  const Parameters& p = job.parameters[block.stream];
  const int64_t bytes = bytes_of(job.input.element), grad_bytes = bytes_of(to.grad.element);
  const char *input[BLOCK_ROWS], *grad[BLOCK_ROWS];
  char* grad_input[BLOCK_ROWS];
  for (int64_t r = 0; r < block.count; ++r) {
    const int64_t k = block.first + r;
    input[r] = row_of(job.input, block, r);
    grad[r] = row_of(to.grad, block, r);
    grad_input[r] = static_cast<char*>(to.grad_input) + place_of(job, block, r) * job.inputs * bytes;
    uint32_t* const panels = Kept::panel(kept, block.stream, 0) + k / PACK<P> * PANEL;
    factor(job, block, r, 0, job.inputs, [&](int64_t c, Floats x) {
      put_step<P>(panels + c / PANEL * kept.a_panel + c % PANEL, k, x);
    });
  }
  const bool norm = job.before == Before::layer_norm;
  const int64_t step = row_words<P>(CHUNK<P>);
  multiply_chunks<P>(
      block.count, job.outputs, packed_of<P>(job, true, block.stream), s.operand, s.sums,
      [&](int64_t first, int64_t last) {
        for (int64_t r = 0; r < block.count; ++r) {
          const int64_t k = block.first + r;
          uint32_t* const row = s.operand + r * step;
          for (int64_t c = first; c < last; c += LANES) {
            const Floats g = numbers_at(to.grad.element, grad[r] + c * grad_bytes);
            put_row<P>(row, c - first, g);
            uint32_t* const part = Kept::part(kept, block.stream, c / OUTPUTS_A_PART);
            put_step<P>(part + k / PACK<P> * OUTPUTS_A_PART + c % OUTPUTS_A_PART, k, g);
          }
        }
      },
      [&](int64_t r, int64_t c, Floats g) {
        if (norm) return store(s.sums + r * job.inputs + c, g);
        if (job.before == Before::gelu) g *= gelu_slope(numbers_at(job.input.element, input[r] + c * bytes));
        put_numbers(job.input.element, grad_input[r] + c * bytes, g);
      });
  if (!norm) return;
  float* const sums = kept.norms + (block.stream * kept.blocks + block.first / BLOCK_ROWS) * 2 * job.inputs;
  __builtin_memset(sums, 0, 2 * job.inputs * sizeof(float));
  for (int64_t r = 0; r < block.count; ++r) {
    const float* const x = floats_of(job.input, input[r], job.inputs, s.line);
    norm_backward(job, p, x, moments_at(job, place_of(job, block, r)), s.sums + r * job.inputs, sums, grad_input[r]);
  }
}

// ---- The gradients of the parameters: a panel of channels and a part of the outputs a task ----

INTRAFORMER_INLINE int64_t weight_tasks(const Job& job) { return job.streams * panels_of(job.inputs) * parts_of(job); }

template <Precision P>
INTRAFORMER_INLINE Floats numbers_of(Words word) {
  if constexpr (P == Precision::float32) return bits<Floats>(word);
  return bits<Floats>(word << 16) + bits<Floats>(word & 0xffff0000u);
}

// The sum over the rows of LANES outputs. Each addition of a short run loses no more than the products do; those of all the runs
// would, so that what they lose is added at the end (Knuth's TwoSum).
template <Precision P>
INTRAFORMER_INLINE Floats sum_of_rows(const uint32_t* grads, int64_t words) {
  constexpr int64_t SHORT = 64, TOGETHER = 4;
  Floats all{}, lost{};
  for (int64_t first = 0; first < words; first += SHORT) {
    const int64_t last = least(words, first + SHORT);
    Floats sums[TOGETHER] = {};
    for (int64_t w = first; w < last; ++w) sums[w % TOGETHER] += numbers_of<P>(load<Words>(grads + w * OUTPUTS_A_PART));
    const Floats run = (sums[0] + sums[1]) + (sums[2] + sums[3]), total = all + run, added = total - all;
    lost += (all - (total - added)) + (run - added);
    all = total;
  }
  return all + lost;
}

template <Precision P>
void weights(const Job& job, const Backward& to, int64_t task) {
  // Words of the rows that are multiplied before the sums join those in memory: both factors of a tile stay in the first-level cache.
  constexpr int64_t DEPTH = 128;
  Pieces pieces{static_cast<char*>(to.kept), 0};
  const Kept kept = take_kept<P>(pieces, job);
  const int64_t stream = task / (kept.panels * kept.parts), panel = task / kept.parts % kept.panels, part = task % kept.parts;
  const int64_t first = part * OUTPUTS_A_PART, outputs = least(OUTPUTS_A_PART, job.outputs - first);
  const int64_t c0 = panel * PANEL, columns = least(PANEL, job.inputs - c0);
  const int64_t rows = stream_of(job, stream).rows, words = words_of<P>(rows);
  const uint32_t* const grads = Kept::part(kept, stream, part);
  const uint32_t* const factors = Kept::panel(kept, stream, panel);
  float* const weight = to.weights + (stream * job.outputs + first) * job.inputs + c0;
  if (words == 0) {
    for (int64_t n = 0; n < outputs; ++n) __builtin_memset(weight + n * job.inputs, 0, columns * sizeof(float));
  }
  for (int64_t w = 0; w < words; w += DEPTH) {
    const Right right{factors + w * PANEL, kept.a_panel, least(DEPTH, words - w), columns};
    multiply<P, Order::columns>(
        {grads + w * OUTPUTS_A_PART, OUTPUTS_A_PART}, outputs, right, [&](int64_t n0, int64_t n, int64_t, const float* sums) {
          for_each_vector(n0, n, 0, columns, sums, [&](int64_t r, int64_t c, Floats x) {
            float* const at = weight + r * job.inputs + c;
            store(at, w == 0 ? x : load<Floats>(at) + x);
          });
        });
  }
  if (panel == 0) {
    float* const bias = to.biases + stream * job.outputs + first;
    for (int64_t n = 0; n < outputs; n += LANES) store(bias + n, sum_of_rows<P>(grads + n, words));
  }
  if (part == 0 && job.before == Before::layer_norm) {
    const float* const sums = kept.norms + stream * kept.blocks * 2 * job.inputs;
    for (int64_t c = c0; c < c0 + columns; c += LANES) {
      Floats weight_sum{}, bias_sum{};
      for (int64_t b = 0; b * BLOCK_ROWS < rows; ++b) {
        weight_sum += load<Floats>(sums + b * 2 * job.inputs + c);
        bias_sum += load<Floats>(sums + (b * 2 + 1) * job.inputs + c);
      }
      store(to.norm_weights + stream * job.inputs + c, weight_sum);
      store(to.norm_biases + stream * job.inputs + c, bias_sum);
    }
  }
}

}  // namespace
}  // namespace intraformer::stream_linear
