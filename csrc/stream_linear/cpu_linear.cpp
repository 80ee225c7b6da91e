// A block of rows goes through its product on one thread and stays in that core's second-level cache, a chunk of channels at a time,
// while a panel of weights after the other comes by. For the gradients of the weights, whose sums run over all rows, the blocks leave
// both factors behind: the gradients of the output by columns, and what was multiplied with the weights as panels.
#include "stream_linear/cpu_linear.h"

#include "cpu/operands.h"
#include "cpu/pieces.h"
#include "cpu/rows.h"

namespace intraformer::stream_linear {
namespace {

// ---- Sizes ----

// Numbers of K that are multiplied before the next ones are packed: BLOCK_ROWS of them are 170 KB.
template <Precision P>
constexpr int64_t CHUNK = 512 * PACK<P>;

// Outputs whose gradients stand side by side, and whose weights' gradients are one task: whole vectors and, with AVX-512, whole tiles.
constexpr int64_t OUTPUTS_A_PART = 112;

INTRAFORMER_INLINE int64_t parts_of(const Job& job) { return (job.outputs + OUTPUTS_A_PART - 1) / OUTPUTS_A_PART; }

// Rows that the longest stream has.
INTRAFORMER_INLINE int64_t longest(const Job& job) { return job.clusters * ((job.tokens + job.streams - 1) / job.streams); }

INTRAFORMER_INLINE int64_t depth_of(const Job& job, bool backward) { return backward ? job.outputs : job.inputs; }
INTRAFORMER_INLINE int64_t width_of(const Job& job, bool backward) { return backward ? job.inputs : job.outputs; }

// BLOCK_ROWS is even: two rows of bfloat16 share a word.
INTRAFORMER_INLINE int64_t blocks_of(const Job& job) { return (longest(job) + BLOCK_ROWS - 1) / BLOCK_ROWS; }

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
  INTRAFORMER_INLINE int64_t token(const Block& block, int64_t r) { return block.first_token + (block.first + r) % block.length; }
};

INTRAFORMER_INLINE Block stream_of(const Job& job, int64_t stream) {
  const int64_t length = job.tokens / job.streams, longer = job.tokens % job.streams;  // numpy.array_split's rule
  const int64_t own = length + (stream < longer);
  return {stream, 0, job.clusters * own, job.clusters * own, stream * length + least(stream, longer), own};
}

INTRAFORMER_INLINE Block block_of(const Job& job, int64_t task) {
  const int64_t blocks = blocks_of(job);
  Block block = stream_of(job, task / blocks);
  block.first = task % blocks * BLOCK_ROWS;
  block.count = most(0, least(BLOCK_ROWS, block.rows - block.first));
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

INTRAFORMER_INLINE Moments moments_at(const Job& job, int64_t place) {
  if (job.before != Before::layer_norm) return {};
  return {job.moments[place], job.moments[job.clusters * job.tokens + place]};
}

// sink(c, what is multiplied with the weights) for each vector of the channels first .. last of a row.
template <typename Sink>
INTRAFORMER_INLINE void factor(const Job& job, const Block& block, int64_t r, int64_t first, int64_t last, Sink sink) {
  const char* const row = row_of(job.input, block, r);
  const Parameters& p = job.parameters[block.stream];
  const Moments moments = moments_at(job, place_of(job, block, r));
  const int64_t bytes = bytes_of(job.input.element);
  for (int64_t c = first; c < last; c += LANES) {
    const Floats x = numbers_at(job.input.element, row + c * bytes);
    switch (job.before) {
      case Before::nothing: sink(c, x); break;
      case Before::gelu: sink(c, gelu(x)); break;
      case Before::layer_norm:
        sink(c, (x - moments.mean) * moments.scale * load<Floats>(p.norm_weight + c) + load<Floats>(p.norm_bias + c));
        break;
    }
  }
}

// epilogue(r, c, x) for each vector of a product of rows with `b`, whose K is `depth` numbers long. fill(first, last) brings those
// numbers of the rows into `operand`; `sums` [rows][columns] is for K longer than a chunk.
template <Precision P, typename Fill, typename Epilogue>
INTRAFORMER_INLINE void multiply_chunks(
    int64_t rows, int64_t depth, const Right& b, uint32_t* operand, float* sums, Fill fill, Epilogue epilogue) {
  for (int64_t first = 0; first < depth; first += CHUNK<P>) {
    const int64_t last = least(depth, first + CHUNK<P>);
    fill(first, last);
    const Right chunk{b.words + first / PACK<P> * PANEL, b.panel, words_of<P>(last - first), b.columns};
    multiply<P>({operand, row_words<P>(CHUNK<P>)}, rows, chunk, [&](int64_t r0, int64_t n, int64_t c0, const float* tile) {
      for_each_vector(r0, n, c0, b.columns, tile, [&](int64_t r, int64_t c, Floats x) {
        float* const sum = sums + r * b.columns + c;
        if (first > 0) x += load<Floats>(sum);
        if (last == depth) {
          epilogue(r, c, x);
        } else {
          store(sum, x);
        }
      });
    });
  }
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

struct Scratch {
  uint32_t* operand;  // [BLOCK_ROWS] rows of A, of a chunk of channels
  float* sums;        // [BLOCK_ROWS][columns of the product], where a chunk is not all, or a LayerNorm's gradients follow
  float* line;        // [inputs]
};

template <Precision P>
INTRAFORMER_INLINE Scratch take_scratch(Pieces& pieces, const Job& job, bool backward) {
  Scratch s{};
  const bool sums = depth_of(job, backward) > CHUNK<P> || (backward && job.before == Before::layer_norm);
  s.operand = Pieces::next<uint32_t>(pieces, BLOCK_ROWS * row_words<P>(CHUNK<P>));
  s.sums = Pieces::next<float>(pieces, sums ? BLOCK_ROWS * width_of(job, backward) : 0);
  s.line = Pieces::next<float>(pieces, job.inputs);
  return s;
}

template <Precision P>
int64_t scratch_bytes(const Job& job, bool backward) {
  Pieces pieces{nullptr, 0};
  take_scratch<P>(pieces, job, backward);
  return pieces.used;
}

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
