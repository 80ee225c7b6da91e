// From rows of numbers as tensors keep them to the operands of gemm.h, and from the sums back.
//
// Rows are named by their numbers; a negative one is padding, and gives zeros whatever stands in it: zero times NaN is NaN.
// Included by the files that are compiled once per instruction set; the rules of vector.h hold here too. float64 is not for them.
#pragma once

#include "cpu/gemm.h"
#include "cpu/strided.h"

namespace {

using intraformer::Element;
using intraformer::Strided;

template <Element E>
struct Kind {
  static constexpr Element element = E;
  static constexpr int64_t bytes = E == Element::float32 ? 4 : 2;
};

// Calls body with the Kind of an element.
template <typename Body>
INTRAFORMER_INLINE void with_kind(Element element, Body body) {
  if (element == Element::float32) return body(Kind<Element::float32>{});
  if (element == Element::bfloat16) return body(Kind<Element::bfloat16>{});
  body(Kind<Element::float16>{});
}

template <Element E>
INTRAFORMER_INLINE Floats load_numbers(const void* from) {
  if constexpr (E == Element::float32) return load<Floats>(from);
  if constexpr (E == Element::bfloat16) return from_bfloat16(load<Halves>(from));
  if constexpr (E == Element::float16) return from_float16(load<Halves>(from));
}

// LANES channels of a row, from channel c on; zeros past the last.
template <typename K>
INTRAFORMER_INLINE Floats channels(K, const Strided& rows, int64_t row, int64_t c, int64_t width) {
  if (row < 0 || c >= width) return Floats{};
  const char* const from = static_cast<const char*>(rows.data) + (row * rows.row + c * rows.channel) * K::bytes;
  if (rows.channel == 1 && c + LANES <= width) return load_numbers<K::element>(from);
  alignas(64) char piece[LANES * sizeof(float)] = {};
  for (int64_t i = 0; i < LANES && c + i < width; ++i) {
    __builtin_memcpy(piece + i * K::bytes, from + i * rows.channel * K::bytes, K::bytes);
  }
  return load_numbers<K::element>(piece);
}

// Stores those of LANES numbers that lie within `width`, from channel c of a row with contiguous channels on.
template <typename K>
INTRAFORMER_INLINE void store_channels(K, void* row, int64_t c, int64_t width, Floats x) {
  alignas(64) char piece[LANES * sizeof(float)];
  if constexpr (K::element == Element::float32) store(piece, x);
  if constexpr (K::element == Element::bfloat16) store(piece, narrowed(x));
  if constexpr (K::element == Element::float16) store(piece, to_float16(x));
  char* const to = static_cast<char*>(row) + c * K::bytes;
  if (c + LANES <= width) {
    __builtin_memcpy(to, piece, LANES * K::bytes);
  } else {
    for (int64_t i = 0; i < (width - c) * K::bytes; ++i) to[i] = piece[i];
  }
}

// LANES words along K of a row, from word w on.
template <Precision P, typename K>
INTRAFORMER_INLINE Words words_along(K kind, const Strided& rows, int64_t row, int64_t w, int64_t width) {
  if constexpr (P == Precision::float32) {
    return bits<Words>(channels(kind, rows, row, w, width));
  } else {
    Halves halves[2] = {
        narrowed(channels(kind, rows, row, 2 * w, width)), narrowed(channels(kind, rows, row, 2 * w + LANES, width))};
    return load<Words>(halves);
  }
}

// rows[i][j] becomes rows[j][i].
INTRAFORMER_INLINE void transpose(Words (&rows)[LANES]) {
  Words turned[LANES];
#if defined(__AVX512F__)
  // Within every four lanes first, then the fours of lanes as wholes.
  for (int i = 0; i < LANES; i += 4) {
    const __m512i a = bits<__m512i>(rows[i]), b = bits<__m512i>(rows[i + 1]);
    const __m512i c = bits<__m512i>(rows[i + 2]), d = bits<__m512i>(rows[i + 3]);
    const __m512i ab = _mm512_unpacklo_epi32(a, b), cd = _mm512_unpacklo_epi32(c, d);
    const __m512i ab_high = _mm512_unpackhi_epi32(a, b), cd_high = _mm512_unpackhi_epi32(c, d);
    turned[i] = bits<Words>(_mm512_unpacklo_epi64(ab, cd));
    turned[i + 1] = bits<Words>(_mm512_unpackhi_epi64(ab, cd));
    turned[i + 2] = bits<Words>(_mm512_unpacklo_epi64(ab_high, cd_high));
    turned[i + 3] = bits<Words>(_mm512_unpackhi_epi64(ab_high, cd_high));
  }
  for (int i = 0; i < 4; ++i) {
    const __m512i a = bits<__m512i>(turned[i]), b = bits<__m512i>(turned[i + 4]);
    const __m512i c = bits<__m512i>(turned[i + 8]), d = bits<__m512i>(turned[i + 12]);
    const __m512i ab = _mm512_shuffle_i32x4(a, b, 0x88), ab_odd = _mm512_shuffle_i32x4(a, b, 0xdd);
    const __m512i cd = _mm512_shuffle_i32x4(c, d, 0x88), cd_odd = _mm512_shuffle_i32x4(c, d, 0xdd);
    rows[i] = bits<Words>(_mm512_shuffle_i32x4(ab, cd, 0x88));
    rows[i + 4] = bits<Words>(_mm512_shuffle_i32x4(ab_odd, cd_odd, 0x88));
    rows[i + 8] = bits<Words>(_mm512_shuffle_i32x4(ab, cd, 0xdd));
    rows[i + 12] = bits<Words>(_mm512_shuffle_i32x4(ab_odd, cd_odd, 0xdd));
  }
#elif defined(__AVX2__)
  for (int i = 0; i < LANES; i += 4) {
    const __m256i a = bits<__m256i>(rows[i]), b = bits<__m256i>(rows[i + 1]);
    const __m256i c = bits<__m256i>(rows[i + 2]), d = bits<__m256i>(rows[i + 3]);
    const __m256i ab = _mm256_unpacklo_epi32(a, b), cd = _mm256_unpacklo_epi32(c, d);
    const __m256i ab_high = _mm256_unpackhi_epi32(a, b), cd_high = _mm256_unpackhi_epi32(c, d);
    turned[i] = bits<Words>(_mm256_unpacklo_epi64(ab, cd));
    turned[i + 1] = bits<Words>(_mm256_unpackhi_epi64(ab, cd));
    turned[i + 2] = bits<Words>(_mm256_unpacklo_epi64(ab_high, cd_high));
    turned[i + 3] = bits<Words>(_mm256_unpackhi_epi64(ab_high, cd_high));
  }
  for (int i = 0; i < 4; ++i) {
    const __m256i a = bits<__m256i>(turned[i]), b = bits<__m256i>(turned[i + 4]);
    rows[i] = bits<Words>(_mm256_permute2x128_si256(a, b, 0x20));
    rows[i + 4] = bits<Words>(_mm256_permute2x128_si256(a, b, 0x31));
  }
#else
  for (int i = 0; i < LANES; ++i) {
    for (int j = 0; j < LANES; ++j) turned[j][i] = rows[i][j];
  }
  for (int i = 0; i < LANES; ++i) rows[i] = turned[i];
#endif
}

// `numbers` [count] names the rows; null: 0, 1, 2, ...
INTRAFORMER_INLINE int64_t number_of(const int64_t* numbers, int64_t i) { return numbers == nullptr ? i : numbers[i]; }

// Rows of A, row_words<P>(width) words from one to the next.
template <Precision P>
void pack_rows(const Strided& rows, const int64_t* numbers, int64_t count, int64_t width, uint32_t* to) {
  const int64_t step = row_words<P>(width);
  with_kind(rows.element, [&](auto kind) {
    for (int64_t r = 0; r < count; ++r) {
      for (int64_t c = 0; c < width; c += LANES) {
        put_row<P>(to + r * step, c, channels(kind, rows, number_of(numbers, r), c, width));
      }
    }
  });
}

// Panels of B, whose K are the rows and whose columns are the channels.
template <Precision P>
void pack_panels(const Strided& rows, const int64_t* numbers, int64_t count, int64_t width, uint32_t* panels) {
  const int64_t steps = words_of<P>(count);
  with_kind(rows.element, [&](auto kind) {
    for (int64_t k = 0; k < count; ++k) {
      for (int64_t c = 0; c < width; c += LANES) {
        put_panel_row<P>(panels, steps, k, c, channels(kind, rows, number_of(numbers, k), c, width));
      }
    }
  });
}

// Panels of B, whose K are the channels and whose columns are the rows.
template <Precision P>
void pack_transposed(const Strided& rows, const int64_t* numbers, int64_t count, int64_t width, uint32_t* panels) {
  const int64_t steps = words_of<P>(width);
  with_kind(rows.element, [&](auto kind) {
    for (int64_t n = 0; n < count; n += LANES) {
      uint32_t* const to = panels + (n / PANEL) * steps * PANEL + n % PANEL;
      for (int64_t w = 0; w < steps; w += LANES) {
        Words square[LANES];
        for (int64_t i = 0; i < LANES; ++i) {
          square[i] = words_along<P>(kind, rows, n + i < count ? number_of(numbers, n + i) : -1, w, width);
        }
        transpose(square);
        for (int64_t i = 0; i < LANES && w + i < steps; ++i) store(to + (w + i) * PANEL, square[i]);
      }
    }
  });
}

// Rows of A that stand in memory as they are: float32 with contiguous channels, one after another from row `first` on.
template <Precision P>
INTRAFORMER_INLINE bool are_operand(const Strided& rows) {
  return P == Precision::float32 && rows.element == Element::float32 && rows.channel == 1;
}

INTRAFORMER_INLINE Left in_place(const Strided& rows, int64_t first) {
  return {static_cast<const uint32_t*>(rows.data) + first * rows.row, rows.row};
}

}  // namespace
