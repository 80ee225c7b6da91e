// Matrix products from packed panels: C[rows, columns] = A[rows, K] B[K, columns]. Operands are float32 or bfloat16 with float32
// sums, or int8 with int32 sums; of the latter A is unsigned and B signed, as processors multiply them.
//
// Operands are arrays of 32-bit words: a float, or two bfloat16 or four int8 that follow each other along K. B lies in panels of PANEL
// columns, [K words][PANEL]; A lies in rows, or transposed. A tile of C is TILE_ROWS x PANEL sums in registers, filled in one walk
// through K, and handed to the caller's epilogue out of the first-level cache. The sum of an element runs along K in order,
// whatever tile it falls into, so that tiles and threads change no bit of the result.
//
// Included by the files that are compiled once per instruction set; the rules of vector.h hold here too.
#pragma once

#include "cpu/vector.h"

namespace {

enum class Precision { float32, bfloat16, int8 };

// How A lies in memory, and what its step is: rows of words along K and the words from one to the next; or, for each word of K in
// turn, that of every row, and the words from one word of K to the next.
enum class Order { rows, columns };

// Numbers of K in a word.
template <Precision P>
constexpr int64_t PACK = P == Precision::int8       ? 4
                         : P == Precision::bfloat16 ? 2
                                                    : 1;

template <Precision P>
struct SumOf {
  typedef float type;
};
template <>
struct SumOf<Precision::int8> {
  typedef int32_t type;
};
template <Precision P>
using Sum = typename SumOf<P>::type;

// Registers: two vectors of sums a row, two of B and one of A. x86 has 16 vector registers, and 32 with AVX-512, as ARM has.
constexpr int64_t PANEL = 2 * LANES;
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int TILE_ROWS = 14;
#else
constexpr int TILE_ROWS = 6;
#endif

INTRAFORMER_INLINE int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
INTRAFORMER_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
INTRAFORMER_INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
INTRAFORMER_INLINE int64_t panels_of(int64_t columns) { return (columns + PANEL - 1) / PANEL; }

template <Precision P>
INTRAFORMER_INLINE int64_t words_of(int64_t numbers) {
  return (numbers + PACK<P> - 1) / PACK<P>;
}

// Words from one row of A to the next: whole cache lines, and one more, lest the rows of a tile share a cache set.
template <Precision P>
INTRAFORMER_INLINE int64_t row_words(int64_t numbers) {
  return round_up(words_of<P>(numbers), 16) + 16;
}

INTRAFORMER_INLINE uint16_t bfloat16_of(float x) {
  const uint32_t u = bits<uint32_t>(x);
  return x != x ? 0x7fc0 : static_cast<uint16_t>((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

// Stores number k of column n in panels of `steps` words along K, numbers being stored one at a time in any order. For int8 it is
// a whole one.
template <Precision P>
INTRAFORMER_INLINE void put(uint32_t* panels, int64_t steps, int64_t k, int64_t n, float x) {
  uint32_t* const word = panels + ((n / PANEL) * steps + k / PACK<P>)*PANEL + n % PANEL;
  char* const within = reinterpret_cast<char*>(word) + k % PACK<P> * (4 / PACK<P>);  // little-endian: the first k is low
  if constexpr (P == Precision::bfloat16) {
    const uint16_t half = bfloat16_of(x);
    __builtin_memcpy(within, &half, sizeof half);
  } else if constexpr (P == Precision::int8) {
    *within = static_cast<char>(static_cast<int8_t>(x));
  } else {
    __builtin_memcpy(within, &x, sizeof x);
  }
}

INTRAFORMER_INLINE Halves narrowed(Floats x) {
#if defined(__AVX512BF16__)
  return bits<Halves>(_mm512_cvtneps_pbh(bits<__m512>(x)));
#else
  return to_bfloat16(x);
#endif
}

// Stores LANES numbers from number k (a multiple of LANES) of a row of A on.
template <Precision P>
INTRAFORMER_INLINE void put_row(uint32_t* row, int64_t k, Floats x) {
  if constexpr (P == Precision::bfloat16) {
    store(row + k / 2, narrowed(x));
  } else {
    store(row + k, x);
  }
}

// Stores LANES numbers of row k at the words of their columns, [K words] rows of which `words` is one. Rows come in order: an
// even one clears the place of the odd one after it.
template <Precision P>
INTRAFORMER_INLINE void put_step(uint32_t* words, int64_t k, Floats x) {
  if constexpr (P == Precision::bfloat16) {
    const Words half = widen(narrowed(x));
    store(words, k % 2 == 0 ? half : load<Words>(words) | half << 16);
  } else {
    store(words, x);
  }
}

// The same for row k, from column n (a multiple of LANES) on, in panels of `steps` words along K.
template <Precision P>
INTRAFORMER_INLINE void put_panel_row(uint32_t* panels, int64_t steps, int64_t k, int64_t n, Floats x) {
  put_step<P>(panels + ((n / PANEL) * steps + k / PACK<P>)*PANEL + n % PANEL, k, x);
}

#if defined(__SSE2__)
// The products of pairs of 16-bit numbers, added.
INTRAFORMER_INLINE Ints add_pairs(Words a, Words b) {
#if defined(__AVX512BW__)
  return bits<Ints>(_mm512_madd_epi16(bits<__m512i>(a), bits<__m512i>(b)));
#elif defined(__AVX2__)
  return bits<Ints>(_mm256_madd_epi16(bits<__m256i>(a), bits<__m256i>(b)));
#else
  return bits<Ints>(_mm_madd_epi16(bits<__m128i>(a), bits<__m128i>(b)));
#endif
}
#endif

// sums + the products of a word of A with each word of B.
template <Precision P>
INTRAFORMER_INLINE Ints add_products(Ints sums, Words a, Words b) {
#if defined(__AVX512VNNI__)
  return bits<Ints>(_mm512_dpbusd_epi32(bits<__m512i>(sums), bits<__m512i>(a), bits<__m512i>(b)));
#elif defined(__SSE2__)
  // In 16 bits, even bytes and odd ones: the instruction that multiplies bytes saturates.
  using Signed = Vector<int16_t, 2 * LANES>;
  const Words even = bits<Words>((bits<Signed>(b) << 8) >> 8), odd = bits<Words>(bits<Signed>(b) >> 8);
  return sums + add_pairs(a & 0x00ff00ffu, even) + add_pairs(a >> 8 & 0x00ff00ffu, odd);
#else
  for (int byte = 0; byte < 4; ++byte) {
    sums += bits<Ints>(a >> 8 * byte & 0xffu) * (bits<Ints>(b << (24 - 8 * byte)) >> 24);
  }
  return sums;
#endif
}
template <Precision P>
INTRAFORMER_INLINE Floats add_products(Floats sums, Words a, Words b) {
  if constexpr (P == Precision::float32) return sums + bits<Floats>(a) * bits<Floats>(b);
#if defined(__AVX512BF16__)
  return bits<Floats>(_mm512_dpbf16_ps(bits<__m512>(sums), bits<__m512bh>(a), bits<__m512bh>(b)));
#else
  sums = sums + bits<Floats>(a << 16) * bits<Floats>(b << 16);
  return sums + bits<Floats>(a & 0xffff0000u) * bits<Floats>(b & 0xffff0000u);
#endif
}

// Words of the next panel that a tile prefetches at each step: five tiles fetch a panel, which comes from the third-level cache.
constexpr int64_t AHEAD = PANEL / 4;

// Words of K that are summed up before they join the sum of all: the rounding error of a float32 sum grows with its length, and
// that of bfloat16 operands hides it; that of int8 ones is none.
template <Precision P>
constexpr int64_t RUN = P == Precision::float32 ? 128 : 1024;

// ROWS x VECTORS * LANES products over `steps` words of K.
template <Precision P, Order O, int ROWS, int VECTORS>
__attribute__((noinline)) void multiply_tile(
    const uint32_t* a,
    int64_t a_step,
    const uint32_t* panel,
    int64_t steps,
    const uint32_t* ahead,
    Sum<P>* out,
    int64_t out_row) {
  using Sums = Vector<Sum<P>, LANES>;
  // Rows are reached from a base for every five, lest the compiler keeps an address of each and has no registers left for them.
  constexpr int BASES = O == Order::rows ? (ROWS + 4) / 5 : 1;
  const char* bases[BASES];
  const int64_t stride = a_step * static_cast<int64_t>(sizeof(uint32_t));
  for (int b = 0; b < BASES; ++b) {
    bases[b] = reinterpret_cast<const char*>(a) + 5 * b * stride;
    asm("" : "+r"(bases[b]));
  }
  for (int64_t run = 0; run < steps; run += RUN<P>) {
    const int64_t end = steps - run < RUN<P> ? steps : run + RUN<P>;
    Sums sums[ROWS][VECTORS] = {};
#pragma GCC unroll 4
    for (int64_t k = run; k < end; ++k) {
      __builtin_prefetch(ahead + k * AHEAD, 0, 3);
      Words columns[VECTORS];
      for (int v = 0; v < VECTORS; ++v) columns[v] = load<Words>(panel + k * PANEL + v * LANES);
#pragma GCC unroll 16
      for (int r = 0; r < ROWS; ++r) {
        const char* const at = O == Order::rows ? bases[r / 5] + r % 5 * stride + k * 4 : bases[0] + k * stride + r * 4;
        const Words word = Words{} + load<uint32_t>(at);
        for (int v = 0; v < VECTORS; ++v) sums[r][v] = add_products<P>(sums[r][v], word, columns[v]);
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
      for (int v = 0; v < VECTORS; ++v) {
        Sum<P>* const to = out + r * out_row + v * LANES;
        store(to, run == 0 ? sums[r][v] : load<Sums>(to) + sums[r][v]);
      }
    }
  }
}

template <Precision P, Order O, int VECTORS, int ROWS = TILE_ROWS>
INTRAFORMER_INLINE void multiply_rows(
    int64_t rows,
    const uint32_t* a,
    int64_t a_step,
    const uint32_t* panel,
    int64_t steps,
    const uint32_t* ahead,
    Sum<P>* out,
    int64_t out_row) {
  if constexpr (ROWS > 0) {
    if (rows == ROWS) return multiply_tile<P, O, ROWS, VECTORS>(a, a_step, panel, steps, ahead, out, out_row);
    multiply_rows<P, O, VECTORS, ROWS - 1>(rows, a, a_step, panel, steps, ahead, out, out_row);
  }
}

// The product of up to TILE_ROWS rows with a panel, of which only the first `columns` may be wanted: the right half is then left
// out where it holds none of them.
template <Precision P, Order O>
INTRAFORMER_INLINE void multiply_panel(
    int64_t rows,
    const uint32_t* a,
    int64_t a_step,
    const uint32_t* panel,
    int64_t steps,
    int64_t columns,
    const uint32_t* ahead,
    Sum<P>* out,
    int64_t out_row) {
  if (columns > LANES) {
    multiply_rows<P, O, 2>(rows, a, a_step, panel, steps, ahead, out, out_row);
  } else {
    multiply_rows<P, O, 1>(rows, a, a_step, panel, steps, ahead, out, out_row);
  }
}

// Calls body(first, count) for parts of nearly equal size, none larger than `largest`.
template <typename Body>
INTRAFORMER_INLINE void for_each_part(int64_t rows, int64_t largest, Body body) {
  const int64_t parts = (rows + largest - 1) / largest;
  for (int64_t t = 0; t < parts; ++t) body(rows * t / parts, rows * (t + 1) / parts - rows * t / parts);
}

// Rows that go through products together where an operand would not stay in the cache.
constexpr int64_t BLOCK_ROWS = 6 * 14;

template <typename Body>
INTRAFORMER_INLINE void for_each_tile(int64_t rows, Body body) {
  for_each_part(rows, TILE_ROWS, body);
}

template <typename Body>
INTRAFORMER_INLINE void for_each_block(int64_t rows, Body body) {
  for_each_part(rows, BLOCK_ROWS, body);
}

// Calls body(row, column, sums) for the vectors of a tile that begin within `columns`.
template <typename Body>
INTRAFORMER_INLINE void for_each_vector(
    int64_t row, int64_t rows, int64_t column, int64_t columns, const float* sums, Body body) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < PANEL && column + c < columns; c += LANES) {
      body(row + r, column + c, load<Floats>(sums + r * PANEL + c));
    }
  }
}

// A = [rows, K], B = [K, columns].
struct Left {
  const uint32_t* words;
  int64_t step;  // of its Order
};

template <Order O>
INTRAFORMER_INLINE const uint32_t* from_row(const Left& a, int64_t row) {
  return a.words + (O == Order::rows ? row * a.step : row);
}

struct Right {
  const uint32_t* words;
  int64_t panel;  // words from one panel to the next: steps * PANEL where all of K is used
  int64_t steps;  // words of K
  int64_t columns;
};

// C = A B, a tile at a time to epilogue(row, rows, column, sums), where sums is [rows][PANEL] and column a multiple of PANEL; of a
// tile's columns those that lie past the vector with the last one hold anything.
template <Precision P, Order O = Order::rows, typename Epilogue>
INTRAFORMER_INLINE void multiply(const Left& a, int64_t rows, const Right& b, Epilogue epilogue) {
  alignas(64) Sum<P> sums[TILE_ROWS * PANEL];
  for (int64_t p = 0; p < panels_of(b.columns); ++p) {
    const uint32_t* const panel = b.words + p * b.panel;
    const uint32_t* ahead = panel + b.panel;
    for_each_tile(rows, [&](int64_t row, int64_t count) {
      multiply_panel<P, O>(count, from_row<O>(a, row), a.step, panel, b.steps, b.columns - p * PANEL, ahead, sums, PANEL);
      ahead += b.steps * AHEAD;
      epilogue(row, count, p * PANEL, sums);
    });
  }
}

// C = A B for up to TILE_ROWS rows, C in rows that begin `out_row` floats after one another and have room for whole vectors.
template <Precision P>
INTRAFORMER_INLINE void multiply_into(const Left& a, int64_t rows, const Right& b, Sum<P>* out, int64_t out_row) {
  for (int64_t p = 0; p < panels_of(b.columns); ++p) {
    const uint32_t* const panel = b.words + p * b.panel;
    multiply_panel<P, Order::rows>(rows, a.words, a.step, panel, b.steps, b.columns - p * PANEL, panel, out + p * PANEL, out_row);
  }
}

}  // namespace
