// A block of rows of a stream: where they are, what is multiplied of them, and with which weights.
//
// Included by the file that is compiled once per instruction set; the rules of vector.h hold here too.
#pragma once

#include "cpu/operands.h"
#include "cpu/pieces.h"
#include "cpu/rows.h"
#include "stream_linear/cpu_linear.h"

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

// ---- Scratch ----

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

}  // namespace
}  // namespace intraformer::stream_linear
