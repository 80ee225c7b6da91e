// A block of rows goes through its product on one thread and stays in that core's second-level cache, while a panel of weights
// after the other comes by. For the gradients of the weights, whose sums run over all rows, the blocks leave both factors behind:
// the gradients of the output as rows, which stand for their own transpose, and what was multiplied with the weights as panels.
#include "stream_linear/cpu_linear.h"

#include "cpu/operands.h"
#include "cpu/pieces.h"
#include "cpu/rows.h"

namespace intraformer::stream_linear {
namespace {

// ---- Sizes ----

// Rows of a block: as many as keep the operand to a part of the second-level cache. All of them even: two rows share a word.
template <Precision P>
INTRAFORMER_INLINE int64_t block_rows(int64_t depth) {
  constexpr int64_t BYTES = 400 << 10, STEP = 28;
  const int64_t fitting = BYTES / (row_words<P>(depth) * static_cast<int64_t>(sizeof(uint32_t))) / STEP * STEP;
  return most(STEP, least(BLOCK_ROWS, fitting));
}

// Rows that the longest stream has.
INTRAFORMER_INLINE int64_t longest(const Job& job) { return job.clusters * ((job.tokens + job.streams - 1) / job.streams); }

INTRAFORMER_INLINE int64_t depth_of(const Job& job, bool backward) { return backward ? job.outputs : job.inputs; }
INTRAFORMER_INLINE int64_t width_of(const Job& job, bool backward) { return backward ? job.inputs : job.outputs; }

template <Precision P>
INTRAFORMER_INLINE int64_t blocks_of(const Job& job, bool backward) {
  const int64_t rows = block_rows<P>(depth_of(job, backward));
  return (longest(job) + rows - 1) / rows;
}

template <Precision P>
INTRAFORMER_INLINE Right packed_of(const Job& job, bool backward, int64_t stream) {
  const int64_t width = width_of(job, backward), steps = words_of<P>(depth_of(job, backward));
  return {static_cast<const uint32_t*>(job.packed) + stream * panels_of(width) * steps * PANEL, steps * PANEL, steps, width};
}

template <Precision P>
int64_t packed_bytes(const Job& job, bool backward) {
  const int64_t words = panels_of(width_of(job, backward)) * words_of<P>(depth_of(job, backward)) * PANEL;
  return job.streams * words * static_cast<int64_t>(sizeof(uint32_t));
}

// ---- The rows of a task ----

struct Block {
  int64_t stream, first, count, rows;  // rows first .. first + count of the `rows` of a stream
  int64_t first_token, length;

  // Among the clusters * tokens of the tensors.
  INTRAFORMER_INLINE int64_t cluster(const Block& block, int64_t r) { return (block.first + r) / block.length; }
  INTRAFORMER_INLINE int64_t token(const Block& block, int64_t r) {
    return block.first_token + (block.first + r) % block.length;
  }
};

INTRAFORMER_INLINE Block stream_of(const Job& job, int64_t stream) {
  const int64_t length = job.tokens / job.streams, longer = job.tokens % job.streams;  // numpy.array_split's rule
  const int64_t own = length + (stream < longer);
  return {stream, 0, job.clusters * own, job.clusters * own, stream * length + least(stream, longer), own};
}

template <Precision P>
INTRAFORMER_INLINE Block block_of(const Job& job, bool backward, int64_t task) {
  const int64_t blocks = blocks_of<P>(job, backward), most_rows = block_rows<P>(depth_of(job, backward));
  Block block = stream_of(job, task / blocks);
  block.first = task % blocks * most_rows;
  block.count = most(0, least(most_rows, block.rows - block.first));
  return block;
}

INTRAFORMER_INLINE int64_t bytes_of(Element element) { return element == Element::float32 ? 4 : 2; }

INTRAFORMER_INLINE Floats numbers_at(Element element, const char* from) {
  return element == Element::float32 ? load<Floats>(from) : from_bfloat16(load<Halves>(from));
}

INTRAFORMER_INLINE void put_numbers(Element element, char* to, Floats x) {
  if (element == Element::float32) {
    store(to, x);
  } else {
    store(to, narrowed(x));
  }
}

INTRAFORMER_INLINE const char* row_of(const Tokens& tokens, const Block& block, int64_t r) {
  const int64_t number = Block::cluster(block, r) * tokens.cluster + Block::token(block, r) * tokens.token;
  return static_cast<const char*>(tokens.data) + number * bytes_of(tokens.element);
}

// A row in float32: where it is, or a copy in `line`.
INTRAFORMER_INLINE const float* floats_of(const Tokens& tokens, const char* row, int64_t width, float* line) {
  if (tokens.element == Element::float32) return reinterpret_cast<const float*>(row);
  for (int64_t c = 0; c < width; c += LANES) store(line + c, numbers_at(tokens.element, row + c * 2));
  return line;
}

INTRAFORMER_INLINE int64_t place_of(const Job& job, const Block& block, int64_t r) {
  return Block::cluster(block, r) * job.tokens + Block::token(block, r);
}

// sink(c, what is multiplied with the weights) for each vector of a row.
template <typename Sink>
INTRAFORMER_INLINE void factor(const Job& job, const Block& block, int64_t r, const Moments& moments, float* line, Sink sink) {
  const char* const row = row_of(job.input, block, r);
  const Parameters& p = job.parameters[block.stream];
  const float* const x = floats_of(job.input, row, job.inputs, line);
  for (int64_t c = 0; c < job.inputs; c += LANES) {
    const Floats v = load<Floats>(x + c);
    switch (job.before) {
      case Before::nothing: sink(c, v); break;
      case Before::gelu: sink(c, gelu(v)); break;
      case Before::layer_norm:
        sink(c, (v - moments.mean) * moments.scale * load<Floats>(p.norm_weight + c) + load<Floats>(p.norm_bias + c));
        break;
    }
  }
}

INTRAFORMER_INLINE Moments kept_moments(const Job& job, int64_t place) {
  if (job.before != Before::layer_norm) return {};
  return {job.moments[place], job.moments[job.clusters * job.tokens + place]};
}

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

struct ForwardScratch {
  uint32_t* operand;  // [block_rows] rows of A
  float* line;        // [inputs]
};

template <Precision P>
INTRAFORMER_INLINE ForwardScratch take_forward(Pieces& pieces, const Job& job) {
  uint32_t* const operand = Pieces::next<uint32_t>(pieces, block_rows<P>(job.inputs) * row_words<P>(job.inputs));
  return {operand, Pieces::next<float>(pieces, job.inputs)};
}

template <Precision P>
void forward(const Job& job, const Forward& to, int64_t task, void* memory) {
  const Block block = block_of<P>(job, false, task);
  if (block.count == 0) return;
  Pieces pieces{static_cast<char*>(memory), 0};
  const ForwardScratch s = take_forward<P>(pieces, job);
  const int64_t step = row_words<P>(job.inputs);
  const char* residual[BLOCK_ROWS];
  char* output[BLOCK_ROWS];
  for (int64_t r = 0; r < block.count; ++r) {
    const int64_t place = place_of(job, block, r);
    residual[r] = to.residual.data == nullptr ? nullptr : row_of(to.residual, block, r);
    output[r] = static_cast<char*>(to.output) + place * job.outputs * bytes_of(to.element);
    Moments moments{};
    if (job.before == Before::layer_norm) {
      moments = moments_of(floats_of(job.input, row_of(job.input, block, r), job.inputs, s.line), job.inputs, job.epsilon);
      job.moments[place] = moments.mean;
      job.moments[job.clusters * job.tokens + place] = moments.scale;
    }
    factor(job, block, r, moments, s.line, [&](int64_t c, Floats x) { put_row<P>(s.operand + r * step, c, x); });
  }
  const float* const bias = job.parameters[block.stream].bias;
  multiply<P>(
      {s.operand, step}, block.count, packed_of<P>(job, false, block.stream),
      [&](int64_t r0, int64_t n, int64_t c0, const float* sums) {
        for_each_vector(r0, n, c0, job.outputs, sums, [&](int64_t r, int64_t c, Floats x) {
          x += load<Floats>(bias + c);
          if (residual[r]) x += numbers_at(to.residual.element, residual[r] + c * bytes_of(to.residual.element));
          put_numbers(to.element, output[r] + c * bytes_of(to.element), x);
        });
      });
}

// ---- Backward ----

// What the blocks of rows leave behind for the gradients of the parameters.
struct Kept {
  uint32_t* grads;   // [streams][words along the rows][grad_step], two rows to a word of bfloat16
  uint32_t* factor;  // [streams] panels whose K are the rows
  float* norms;      // [streams][blocks][2][inputs], the sums of a block for norm_weight and norm_bias
  int64_t grad_step, grads_a_stream, steps, factor_a_stream;
};

template <Precision P>
INTRAFORMER_INLINE Kept take_kept(Pieces& pieces, const Job& job) {
  Kept kept{};
  kept.steps = words_of<P>(longest(job));
  kept.grad_step = row_words<Precision::float32>(job.outputs);
  kept.grads_a_stream = kept.steps * kept.grad_step;
  kept.factor_a_stream = panels_of(job.inputs) * kept.steps * PANEL;
  kept.grads = Pieces::next<uint32_t>(pieces, job.streams * kept.grads_a_stream);
  kept.factor = Pieces::next<uint32_t>(pieces, job.streams * kept.factor_a_stream);
  const int64_t norms = job.before == Before::layer_norm ? job.streams * blocks_of<P>(job, true) * 2 * job.inputs : 0;
  kept.norms = Pieces::next<float>(pieces, norms);
  return kept;
}

template <Precision P>
int64_t kept_bytes(const Job& job) {
  Pieces pieces{nullptr, 0};
  take_kept<P>(pieces, job);
  return pieces.used;
}

struct BackwardScratch {
  uint32_t* operand;  // [block_rows] rows of A; float32 has them among what is kept
  float* grads;       // [block_rows][inputs], of what was multiplied with the weights, where a LayerNorm follows
  float* line;        // [the wider of inputs and outputs]
};

template <Precision P>
INTRAFORMER_INLINE BackwardScratch take_backward(Pieces& pieces, const Job& job) {
  const int64_t rows = block_rows<P>(job.outputs);
  BackwardScratch s{};
  s.operand = Pieces::next<uint32_t>(pieces, PACK<P> == 1 ? 0 : rows * row_words<P>(job.outputs));
  s.grads = Pieces::next<float>(pieces, job.before == Before::layer_norm ? rows * job.inputs : 0);
  s.line = Pieces::next<float>(pieces, most(job.inputs, job.outputs));
  return s;
}

template <Precision P>
int64_t scratch_bytes(const Job& job, bool backward) {
  Pieces pieces{nullptr, 0};
  if (backward) {
    take_backward<P>(pieces, job);
  } else {
    take_forward<P>(pieces, job);
  }
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
  const Block block = block_of<P>(job, true, task);
  if (block.count == 0) return;
  Pieces kept_pieces{static_cast<char*>(to.kept), 0}, pieces{static_cast<char*>(memory), 0};
  const Kept kept = take_kept<P>(kept_pieces, job);
  const BackwardScratch s = take_backward<P>(pieces, job);
  const Parameters& p = job.parameters[block.stream];
  uint32_t* const grads = kept.grads + block.stream * kept.grads_a_stream;
  uint32_t* const factors = kept.factor + block.stream * kept.factor_a_stream;
  const int64_t steps = words_of<P>(block.rows), row = row_words<P>(job.outputs);
  const int64_t element = bytes_of(job.input.element);
  char* grad_input[BLOCK_ROWS];
  for (int64_t r = 0; r < block.count; ++r) {
    const int64_t place = place_of(job, block, r), k = block.first + r;
    grad_input[r] = static_cast<char*>(to.grad_input) + place * job.inputs * element;
    const char* const grad = row_of(to.grad, block, r);
    for (int64_t c = 0; c < job.outputs; c += LANES) {
      const Floats g = numbers_at(to.grad.element, grad + c * bytes_of(to.grad.element));
      put_step<P>(grads + k / PACK<P> * kept.grad_step + c, k, g);
      if constexpr (PACK<P> > 1) put_row<P>(s.operand + r * row, c, g);
    }
    factor(job, block, r, kept_moments(job, place), s.line, [&](int64_t c, Floats x) {
      put_panel_row<P>(factors, steps, k, c, x);
    });
  }
  const Left left = PACK<P> == 1 ? Left{grads + block.first * kept.grad_step, kept.grad_step} : Left{s.operand, row};
  const bool norm = job.before == Before::layer_norm;
  multiply<P>(
      left, block.count, packed_of<P>(job, true, block.stream), [&](int64_t r0, int64_t n, int64_t c0, const float* sums) {
        for (int64_t r = r0; r < r0 + n; ++r) {
          const char* const input = row_of(job.input, block, r);
          for_each_vector(r, 1, c0, job.inputs, sums + (r - r0) * PANEL, [&](int64_t, int64_t c, Floats g) {
            if (norm) return store(s.grads + r * job.inputs + c, g);
            if (job.before == Before::gelu) g *= gelu_slope(numbers_at(job.input.element, input + c * element));
            put_numbers(job.input.element, grad_input[r] + c * element, g);
          });
        }
      });
  if (!norm) return;
  const int64_t block_number = block.first / block_rows<P>(job.outputs);
  float* const sums = kept.norms + (block.stream * blocks_of<P>(job, true) + block_number) * 2 * job.inputs;
  __builtin_memset(sums, 0, 2 * job.inputs * sizeof(float));
  for (int64_t r = 0; r < block.count; ++r) {
    const float* const x = floats_of(job.input, row_of(job.input, block, r), job.inputs, s.line);
    norm_backward(job, p, x, kept_moments(job, place_of(job, block, r)), s.grads + r * job.inputs, sums, grad_input[r]);
  }
}

// ---- The gradients of the parameters: a panel of channels and some outputs a task ----

constexpr int64_t OUTPUTS_A_TASK = 112;

INTRAFORMER_INLINE int64_t parts_of(const Job& job) { return (job.outputs + OUTPUTS_A_TASK - 1) / OUTPUTS_A_TASK; }

INTRAFORMER_INLINE int64_t weight_tasks(const Job& job) { return job.streams * panels_of(job.inputs) * parts_of(job); }

// The sum over the rows of LANES outputs, a run of rows at a time.
template <Precision P>
INTRAFORMER_INLINE Floats sum_of_rows(const uint32_t* grads, int64_t step, int64_t words) {
  Floats all{};
  for (int64_t run = 0; run < words; run += RUN<Precision::float32>) {
    Floats sum{};
    for (int64_t w = run; w < least(words, run + RUN<Precision::float32>); ++w) {
      const Words word = load<Words>(grads + w * step);
      if constexpr (PACK<P> == 1) {
        sum += bits<Floats>(word);
      } else {
        sum += bits<Floats>(word << 16) + bits<Floats>(word & 0xffff0000u);
      }
    }
    all += sum;
  }
  return all;
}

template <Precision P>
void weights(const Job& job, const Backward& to, int64_t task) {
  // Words of the rows that are multiplied before the sums join those in memory: what they need stays in the caches.
  constexpr int64_t DEPTH = 256;
  const int64_t panels = panels_of(job.inputs), parts = parts_of(job);
  const int64_t stream = task / (panels * parts), panel = task / parts % panels, part = task % parts;
  const int64_t first = part * OUTPUTS_A_TASK, outputs = least(OUTPUTS_A_TASK, job.outputs - first);
  const int64_t c0 = panel * PANEL, columns = least(PANEL, job.inputs - c0);
  Pieces pieces{static_cast<char*>(to.kept), 0};
  const Kept kept = take_kept<P>(pieces, job);
  const int64_t rows = stream_of(job, stream).rows, words = words_of<P>(rows);
  const uint32_t* const grads = kept.grads + stream * kept.grads_a_stream + first;
  const uint32_t* const factors = kept.factor + stream * kept.factor_a_stream + panel * words * PANEL;
  float* const weight = to.weights + (stream * job.outputs + first) * job.inputs + c0;
  if (words == 0) {
    for (int64_t n = 0; n < outputs; ++n) __builtin_memset(weight + n * job.inputs, 0, columns * sizeof(float));
  }
  for (int64_t w = 0; w < words; w += DEPTH) {
    const Right right{factors + w * PANEL, words * PANEL, least(DEPTH, words - w), columns};
    multiply<P, Order::columns>(
        {grads + w * kept.grad_step, kept.grad_step}, outputs, right, [&](int64_t n0, int64_t n, int64_t, const float* sums) {
          for_each_vector(n0, n, 0, columns, sums, [&](int64_t r, int64_t c, Floats x) {
            float* const at = weight + r * job.inputs + c;
            store(at, w == 0 ? x : load<Floats>(at) + x);
          });
        });
  }
  if (panel == 0) {
    float* const bias = to.biases + stream * job.outputs + first;
    for (int64_t n = 0; n < outputs; n += LANES) store(bias + n, sum_of_rows<P>(grads + n, kept.grad_step, words));
  }
  if (part == 0 && job.before == Before::layer_norm) {
    const int64_t most_rows = block_rows<P>(job.outputs), used = (rows + most_rows - 1) / most_rows;
    const float* const sums = kept.norms + stream * blocks_of<P>(job, true) * 2 * job.inputs;
    for (int64_t c = c0; c < c0 + columns; c += LANES) {
      Floats weight_sum{}, bias_sum{};
      for (int64_t b = 0; b < used; ++b) {
        weight_sum += load<Floats>(sums + b * 2 * job.inputs + c);
        bias_sum += load<Floats>(sums + (b * 2 + 1) * job.inputs + c);
      }
      store(to.norm_weights + stream * job.inputs + c, weight_sum);
      store(to.norm_biases + stream * job.inputs + c, bias_sum);
    }
  }
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

int64_t row_tasks_of(const Job& job, bool backward) {
  return with_precision(job, [&](auto of) { return job.streams * blocks_of<of.precision>(job, backward); });
}

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
const LinearLoops INTRAFORMER_LINEAR_LOOPS = {packed_bytes_of, kept_bytes_of, scratch_bytes_of, pack_tasks_of, pack_of,
                                              row_tasks_of,    forward_of,    backward_of,      weight_tasks_of, weights_of};

}  // namespace intraformer::stream_linear
