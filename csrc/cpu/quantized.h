// From rows of floats to the int8 operands of gemm.h, and from their sums back.
//
// A row of A has a scale of its own, found as it comes, and so has a column of B, found at packing: the largest magnitude is 127
// steps of it. gemm.h wants A unsigned: a number q of a row is kept as q + 128, and 128 times the sum of a column of B is what that
// adds to a product.
//
// Included by the files that are compiled once per instruction set; the rules of vector.h hold here too. Widths are multiples of 16.
#pragma once

#include "cpu/gemm.h"
#include "cpu/rows.h"

namespace {

// Adding it to |x| < 2^22 rounds x to an integer, ties to even, which the low bits then hold.
constexpr float ROUND = 12582912.0f;

// What numbers are multiplied by, of which the largest magnitude is given, to become steps; a row of nothing larger than 2^-100
// counts as zeros.
INTRAFORMER_INLINE float steps_a_unit(float largest) { return largest < 0x1p-100f ? 0.0f : 127.0f / largest; }

// The scale of that; NaN where a number is infinite or NaN, which so spoils all that comes of it.
INTRAFORMER_INLINE float unit_of_step(float largest) {
  return largest <= 3.402823466e38f ? largest * (1.0f / 127.0f) : __builtin_nanf("");
}

// Magnitudes are compared by their bits: the largest is then a NaN where there is one.
INTRAFORMER_INLINE Ints larger_magnitude(Ints largest, Floats x) {
  const Ints magnitude = bits<Ints>(bits<Words>(x) & 0x7fffffffu);
  return bits<Ints>(choose(mask(magnitude > largest), bits<Words>(magnitude), bits<Words>(largest)));
}

// A row of A from floats, of which `magnitudes` holds the largest of every lane. Returns its scale.
INTRAFORMER_INLINE float quantize(const float* x, int64_t width, Ints magnitudes, uint32_t* to) {
  const float largest = bits<float>(greatest_of<int32_t, LANES>(magnitudes)), steps = steps_a_unit(largest);
  for (int64_t j = 0; j < width; j += LANES) {
    store(reinterpret_cast<char*>(to) + j, lowest(bits<Words>(load<Floats>(x + j) * steps + (ROUND + 128.0f))));
  }
  return unit_of_step(largest);
}

INTRAFORMER_INLINE float quantize(const float* x, int64_t width, uint32_t* to) {
  Ints magnitudes{};
  for (int64_t j = 0; j < width; j += LANES) magnitudes = larger_magnitude(magnitudes, load<Floats>(x + j));
  return quantize(x, width, magnitudes, to);
}

// What the columns of B bring along.
struct Columns {
  float* scales;     // [columns]
  int32_t* offsets;  // [columns], 128 times the sum
};

// B in panels from the numbers [k, n] at from[k * k_stride + n * column_stride], with offsets for every `group` numbers along K,
// [groups][columns] one after the other.
void quantize_panels(
    const float* from,
    int64_t k_stride,
    int64_t column_stride,
    int64_t k_count,
    int64_t columns,
    int64_t group,
    uint32_t* panels,
    const Columns& to) {
  for (int64_t n = 0; n < columns; ++n) {
    const float* const column = from + n * column_stride;
    float largest = 0.0f;
    for (int64_t k = 0; k < k_count; ++k) {
      const float magnitude = __builtin_fabsf(column[k * k_stride]);
      largest = magnitude <= largest || largest != largest ? largest : magnitude;  // a NaN stays
    }
    const float steps = steps_a_unit(largest);
    to.scales[n] = unit_of_step(largest);
    const bool finite = to.scales[n] == to.scales[n];
    for (int64_t k = 0; k < k_count; ++k) {
      int32_t& offset = to.offsets[k / group * columns + n];
      if (k % group == 0) offset = 0;
      const float q = finite ? column[k * k_stride] * steps + ROUND - ROUND : 0.0f;
      put<Precision::int8>(panels, words_of<Precision::int8>(k_count), k, n, q);
      offset += 128 * static_cast<int32_t>(q);
    }
  }
}

// A tile of sums, and what makes the numbers of it.
struct QuantizedTile {
  const int32_t* sums;      // [rows][PANEL]
  const float* row_scales;  // [rows]
  Columns columns;          // of the whole matrix
};

// As gemm.h's.
template <typename Body>
INTRAFORMER_INLINE void for_each_vector(
    int64_t row, int64_t rows, int64_t column, int64_t columns, const QuantizedTile& tile, Body body) {
  for (int64_t c = 0; c < PANEL && column + c < columns; c += LANES) {
    const Floats scales = load<Floats>(tile.columns.scales + column + c);
    const Ints offsets = load<Ints>(tile.columns.offsets + column + c);
    for (int64_t r = 0; r < rows; ++r) {
      const Ints sum = load<Ints>(tile.sums + r * PANEL + c) - offsets;
      body(row + r, column + c, __builtin_convertvector(sum, Floats) * (scales * tile.row_scales[r]));
    }
  }
}

}  // namespace
