// The weights of a block as its products read them, and how they are brought there.
//
// Included by the file that is compiled once per instruction set; the rules of vector.h hold here too.
#pragma once

#include "cpu/quantized.h"
#include "encoder_block/cpu_block.h"

namespace intraformer::encoder_block {
namespace {

// P is what the linear layers multiply. int8 is theirs alone: the attentions then multiply float32.
template <Precision P>
constexpr Precision ATTENTION = P == Precision::int8 ? Precision::float32 : P;

// Width of a chunk of the hidden layer, 2 KB a row: with 512 channels the three buffers of a chunk of BLOCK_ROWS are about 400 KB.
// With int8 those 2 KB are the floats that a row's scale is sought in.
template <Precision P>
constexpr int64_t CHUNK = P == Precision::bfloat16 ? 1024 : 512;

struct Norm {
  float* weight;
  float* bias;
};

// A matrix in panels over its whole K, or a part of it.
struct Panels {
  uint32_t* words;
  int64_t panel;  // words from one panel to the next
  int64_t steps;
  int64_t columns;
  Columns quantized;  // int8 only
};

struct Linear {
  Panels weight;
  float* bias;
};

struct Weights {
  Norm norm_attention;
  Linear query, key, value, attention_output;
  Norm norm_ffn;
  Linear ffn_up, ffn_down;
  Panels correlation;
  Norm norm_member, norm_anchor;
};

// `group`: numbers along K that are multiplied at once.
template <Precision P>
INTRAFORMER_INLINE Panels take_panels(Pieces& pieces, int64_t k, int64_t columns, int64_t group) {
  const int64_t steps = words_of<P>(k);
  Panels panels{Pieces::next<uint32_t>(pieces, panels_of(columns) * steps * PANEL), steps * PANEL, steps, columns, {}};
  if (P == Precision::int8) {
    panels.quantized.scales = Pieces::next<float>(pieces, columns);
    panels.quantized.offsets = Pieces::next<int32_t>(pieces, (k + group - 1) / group * columns);
  }
  return panels;
}

template <Precision P>
INTRAFORMER_INLINE Linear take_linear(Pieces& pieces, int64_t k, int64_t columns, int64_t group) {
  const Panels weight = take_panels<P>(pieces, k, columns, group);
  return {weight, Pieces::next<float>(pieces, columns)};
}

INTRAFORMER_INLINE Norm take_norm(Pieces& pieces, int64_t width) {
  float* const weight = Pieces::next<float>(pieces, width);
  return {weight, Pieces::next<float>(pieces, width)};
}

template <Precision P>
Weights take_weights(Pieces& pieces, const Sizes& sizes, bool cross) {
  const int64_t d = sizes.width, hidden = sizes.hidden;
  Weights w{};
  w.norm_attention = take_norm(pieces, d);
  w.query = take_linear<P>(pieces, d, d, d);
  w.key = take_linear<P>(pieces, d, d, d);
  w.value = take_linear<P>(pieces, d, d, d);
  w.attention_output = take_linear<P>(pieces, d, d, d);
  w.norm_ffn = take_norm(pieces, d);
  w.ffn_up = take_linear<P>(pieces, d, hidden, d);
  w.ffn_down = take_linear<P>(pieces, hidden, d, CHUNK<P>);
  if (cross) {
    w.correlation = take_panels<P>(pieces, d, d, d);
    w.norm_member = take_norm(pieces, d);
    w.norm_anchor = take_norm(pieces, d);
  }
  return w;
}

template <Precision P>
int64_t packed_bytes(const Sizes& sizes) {
  Pieces pieces{nullptr, 0};
  take_weights<P>(pieces, sizes, sizes.cross);
  return pieces.used;
}

// Columns [first, first + count) of a layer, `first` a multiple of PANEL.
template <Precision P>
INTRAFORMER_INLINE Linear columns_from(const Linear& layer, int64_t first, int64_t count) {
  const Panels& w = layer.weight;
  Columns quantized{};
  if (P == Precision::int8) quantized = {w.quantized.scales + first, w.quantized.offsets + first};
  return {{w.words + first / PANEL * w.panel, w.panel, w.steps, count, quantized}, layer.bias + first};
}

// Its numbers [first, first + count) along K, of which `first` is a multiple of the group.
template <Precision P>
INTRAFORMER_INLINE Panels rows_from(const Panels& w, int64_t first, int64_t count) {
  Columns quantized{};
  if (P == Precision::int8) quantized = {w.quantized.scales, w.quantized.offsets + first / CHUNK<P> * w.columns};
  return {w.words + first / PACK<P> * PANEL, w.panel, words_of<P>(count), w.columns, quantized};
}

// Number [k, n] of the matrix is at from[k * k_stride + n * column_stride].
template <Precision P>
void pack_panels(const float* from, int64_t k_stride, int64_t column_stride, int64_t k_count, int64_t group, const Panels& to) {
  __builtin_memset(to.words, 0, panels_of(to.columns) * to.panel * sizeof(uint32_t));
  if (P == Precision::int8) {
    return quantize_panels(from, k_stride, column_stride, k_count, to.columns, group, to.words, to.quantized);
  }
  for (int64_t n = 0; n < to.columns; ++n) {
    for (int64_t k = 0; k < k_count; ++k) put<P>(to.words, to.steps, k, n, from[k * k_stride + n * column_stride]);
  }
}

template <Precision P>
void pack_linear(const float* weight, const float* bias, int64_t k_count, int64_t group, const Linear& to) {
  pack_panels<P>(weight, 1, k_count, k_count, group, to.weight);
  __builtin_memcpy(to.bias, bias, to.weight.columns * sizeof(float));
}

void pack_norm(const float* weight, const float* bias, int64_t width, const Norm& to) {
  __builtin_memcpy(to.weight, weight, width * sizeof(float));
  __builtin_memcpy(to.bias, bias, width * sizeof(float));
}

template <Precision P>
void pack(const Sizes& sizes, const Parameters& parameters, void* packed) {
  const int64_t d = sizes.width;
  const float* const* p = parameters.values;
  Pieces pieces{static_cast<char*>(packed), 0};
  const Weights w = take_weights<P>(pieces, sizes, sizes.cross);
  pack_norm(p[0], p[1], d, w.norm_attention);
  pack_linear<P>(p[2], p[3], d, d, w.query);
  pack_linear<P>(p[2] + d * d, p[3] + d, d, d, w.key);
  pack_linear<P>(p[2] + 2 * d * d, p[3] + 2 * d, d, d, w.value);
  pack_linear<P>(p[4], p[5], d, d, w.attention_output);
  pack_norm(p[6], p[7], d, w.norm_ffn);
  pack_linear<P>(p[8], p[9], d, d, w.ffn_up);
  pack_linear<P>(p[10], p[11], sizes.hidden, CHUNK<P>, w.ffn_down);
  if (!sizes.cross) return;
  pack_panels<P>(p[12], d, 1, d, d, w.correlation);
  pack_norm(p[13], p[14], d, w.norm_member);
  pack_norm(p[15], p[16], d, w.norm_anchor);
}

}  // namespace
}  // namespace intraformer::encoder_block
