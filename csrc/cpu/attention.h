// softmax(scale * queries keys^T) values of one head over one context, and its gradients, out of operands that lie in the cache.
//
// Included by the files that are compiled once per instruction set; the rules of vector.h hold here too.
#pragma once

#include "cpu/gemm.h"
#include "cpu/pieces.h"
#include "cpu/rows.h"

namespace {

// What is looked at, packed.
struct Context {
  int64_t length;            // tokens
  int64_t key_width;         // channels of a query and of a key
  int64_t value_width;       // channels of a value
  const uint32_t* keep;      // [round_up(length, LANES)], all ones where a token may be looked at
  const uint32_t* keys;      // panels, K the channels, columns the tokens
  const uint32_t* values;    // panels, K the tokens, columns the channels
  const uint32_t* values_t;  // as keys; for the gradients only
  const uint32_t* keys_t;    // as values; for the gradients only
};

template <Precision P>
INTRAFORMER_INLINE int64_t key_words(int64_t length, int64_t width) {
  return panels_of(length) * words_of<P>(width) * PANEL;
}
template <Precision P>
INTRAFORMER_INLINE int64_t value_words(int64_t length, int64_t width) {
  return panels_of(width) * words_of<P>(length) * PANEL;
}
template <Precision P>
INTRAFORMER_INLINE Right as_keys(const uint32_t* panels, int64_t length, int64_t width) {
  return {panels, words_of<P>(width) * PANEL, words_of<P>(width), length};
}
template <Precision P>
INTRAFORMER_INLINE Right as_values(const uint32_t* panels, int64_t length, int64_t width) {
  return {panels, words_of<P>(length) * PANEL, words_of<P>(length), width};
}

// Floats from one row of scores to the next: whole panels, and a cache line more, lest the rows of a tile share a cache set.
INTRAFORMER_INLINE int64_t score_row(int64_t length) { return round_up(length, PANEL) + 16; }

struct AttentionScratch {
  float* scores;            // [TILE_ROWS] score rows
  uint32_t* probabilities;  // [TILE_ROWS] rows of A; float32 leaves them where the scores were
};

template <Precision P>
INTRAFORMER_INLINE AttentionScratch take_attention(Pieces& pieces, int64_t longest) {
  AttentionScratch s{};
  s.scores = Pieces::next<float>(pieces, TILE_ROWS * score_row(longest));
  if (P == Precision::bfloat16) s.probabilities = Pieces::next<uint32_t>(pieces, TILE_ROWS * row_words<P>(longest));
  return s;
}

// A tile at a time to epilogue(row, rows, column, sums), as of multiply().
template <Precision P, typename Epilogue>
INTRAFORMER_INLINE void attend(
    const Left& queries, int64_t rows, const Context& context, float scale, const AttentionScratch& s, Epilogue epilogue) {
  const int64_t columns = round_up(context.length, LANES), row = score_row(context.length);
  const Right keys = as_keys<P>(context.keys, context.length, context.key_width);
  const Right values = as_values<P>(context.values, context.length, context.value_width);
  for_each_tile(rows, [&](int64_t first, int64_t count) {
    multiply_into<P>({from_row<Order::rows>(queries, first), queries.step}, count, keys, s.scores, row);
    Left probabilities{reinterpret_cast<const uint32_t*>(s.scores), row};
    if (P == Precision::bfloat16) probabilities = {s.probabilities, row_words<P>(context.length)};
    softmax(count, s.scores, row, columns, scale, context.keep, [&](int64_t r, int64_t j, Floats x) {
      if constexpr (P == Precision::float32) store(s.scores + r * row + j, x);
      if constexpr (P == Precision::bfloat16) put_row<P>(s.probabilities + r * row_words<P>(context.length), j, x);
    });
    multiply<P>(probabilities, count, values, [&](int64_t r0, int64_t n, int64_t c0, const float* sums) {
      epilogue(first + r0, n, c0, sums);
    });
  });
}

struct GradientScratch {
  float* p;             // [BLOCK_ROWS] score rows: the scores, then their softmax
  float* ds;            // [BLOCK_ROWS] score rows: the gradients of the softmax, then those of the scores
  uint32_t* ds_rows;    // [BLOCK_ROWS] rows of A; bfloat16 only, as the next two
  uint32_t* p_columns;  // [words of BLOCK_ROWS] score rows: the transposed A
  uint32_t* ds_columns;
};

template <Precision P>
INTRAFORMER_INLINE GradientScratch take_gradients(Pieces& pieces, int64_t rows, int64_t longest) {
  const int64_t row = score_row(longest);
  rows = least(rows, BLOCK_ROWS);
  GradientScratch s{};
  s.p = Pieces::next<float>(pieces, rows * row);
  s.ds = Pieces::next<float>(pieces, rows * row);
  if (P == Precision::bfloat16) {
    s.ds_rows = Pieces::next<uint32_t>(pieces, rows * row_words<P>(longest));
    s.p_columns = Pieces::next<uint32_t>(pieces, words_of<P>(rows) * row);
    s.ds_columns = Pieces::next<uint32_t>(pieces, words_of<P>(rows) * row);
  }
  return s;
}

// Up to BLOCK_ROWS queries beside the gradients of what they got.
struct Asking {
  int64_t rows;
  Left queries, gradients;
  const uint32_t* query_panels;     // the same as values, K the rows
  const uint32_t* gradient_panels;  //
  const int64_t* numbers;           // [rows], negative where nothing is asked; or null
};

// With P the softmax and dO the gradients, dS = scale P (dO values^T - rowsum(P (dO values^T))):
// dS keys, dS^T queries and P^T dO, a tile at a time each to its own epilogue(row, rows, column, sums), one after the other.
template <Precision P, typename QueryEpilogue, typename KeyEpilogue, typename ValueEpilogue>
INTRAFORMER_INLINE void attend_backward(
    const Asking& asking,
    const Context& context,
    float scale,
    const GradientScratch& s,
    QueryEpilogue query_epilogue,
    KeyEpilogue key_epilogue,
    ValueEpilogue value_epilogue) {
  const int64_t length = context.length, columns = round_up(length, LANES), row = score_row(length);
  const Right keys = as_keys<P>(context.keys, length, context.key_width);
  const Right values_t = as_keys<P>(context.values_t, length, context.value_width);
  const Right keys_t = as_values<P>(context.keys_t, length, context.key_width);
  Left ds_rows{reinterpret_cast<const uint32_t*>(s.ds), row}, ds_columns = ds_rows;
  Left p_columns{reinterpret_cast<const uint32_t*>(s.p), row};
  if (P == Precision::bfloat16) {
    ds_rows = {s.ds_rows, row_words<P>(length)};
    ds_columns = {s.ds_columns, row}, p_columns = {s.p_columns, row};
  }
  for_each_tile(asking.rows, [&](int64_t first, int64_t count) {
    const Left queries{from_row<Order::rows>(asking.queries, first), asking.queries.step};
    const Left gradients{from_row<Order::rows>(asking.gradients, first), asking.gradients.step};
    float* const p = s.p + first * row;
    float* const ds = s.ds + first * row;
    multiply_into<P>(queries, count, keys, p, row);
    multiply_into<P>(gradients, count, values_t, ds, row);
    softmax(count, p, row, columns, scale, context.keep, [&](int64_t r, int64_t j, Floats x) { store(p + r * row + j, x); });
    softmax_backward(count, p, ds, row, columns, scale);
    for (int64_t r = 0; r < count; ++r) {
      const bool nothing = asking.numbers != nullptr && asking.numbers[first + r] < 0;
      if (P == Precision::float32 && !nothing) continue;
      for (int64_t j = 0; j < columns; j += LANES) {
        if (nothing) store(p + r * row + j, Floats{}), store(ds + r * row + j, Floats{});
        if constexpr (P == Precision::bfloat16) {
          const int64_t k = first + r;
          put_row<P>(s.ds_rows + k * ds_rows.step, j, load<Floats>(ds + r * row + j));
          put_step<P>(s.ds_columns + k / 2 * row + j, k, load<Floats>(ds + r * row + j));
          put_step<P>(s.p_columns + k / 2 * row + j, k, load<Floats>(p + r * row + j));
        }
      }
    }
    multiply<P>(
        {from_row<Order::rows>(ds_rows, first), ds_rows.step}, count, keys_t,
        [&](int64_t r0, int64_t n, int64_t c0, const float* sums) { query_epilogue(first + r0, n, c0, sums); });
  });
  const Right query_panels = as_values<P>(asking.query_panels, asking.rows, context.key_width);
  const Right gradient_panels = as_values<P>(asking.gradient_panels, asking.rows, context.value_width);
  multiply<P, Order::columns>(ds_columns, length, query_panels, key_epilogue);
  multiply<P, Order::columns>(p_columns, length, gradient_panels, value_epilogue);
}

}  // namespace
