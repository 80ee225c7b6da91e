// What happens to rows of numbers between the matrix products: GELU, LayerNorm, softmax.
//
// Included by the files that are compiled once per instruction set; the rules of vector.h hold here too. Lengths are multiples of
// LANES.
#pragma once

#include "cpu/vector.h"

namespace {

// Beyond it Phi is 0 or 1 in float32.
constexpr float PHI_LIMIT = 5.5f * 5.5f;

// (Phi(x) - 1/2) / x from the square of x, up to PHI_LIMIT: a polynomial fitted with an error of 8e-9 in x times it.
INTRAFORMER_INLINE Floats phi_over_x(Floats square) {
  constexpr float coefficients[] = {-0.000236417836f, 0.000631559815f, -0.000529131619f, 0.000720104028f,
                                    -0.00241865008f,  0.00462178374f,  -0.00681990944f,  0.0102278255f,
                                    -0.0149990786f,   0.0203645676f,   -0.0260482598f,   0.0320702605f,
                                    -0.0387927853f,   0.0477376282f,   -0.064172335f,    0.12855193f};
  const Floats u = square * (2.0f / PHI_LIMIT) - 1.0f;
  // Even and odd powers apart: two chains half as long.
  const Floats v = u * u;
  Floats odd = constant(coefficients[0]), even = constant(coefficients[1]);
#pragma GCC unroll 8
  for (int i = 2; i < 16; i += 2) {
    odd = odd * v + coefficients[i];
    even = even * v + coefficients[i + 1];
  }
  return odd * u + even;
}

// x Phi(x), the GELU by the error function. NaN stays NaN.
INTRAFORMER_INLINE Floats gelu(Floats x) {
  const Floats square = x * x;
  const Floats inside = x * phi_over_x(square) * x + x * 0.5f;
  const Floats outside = bits<Floats>(bits<Words>(x) & mask(x > 0.0f));
  return choose(mask(square > PHI_LIMIT), outside, inside);
}

// Its derivative, Phi(x) + x exp(-x^2 / 2) / sqrt(2 pi).
INTRAFORMER_INLINE Floats gelu_slope(Floats x) {
  constexpr float one_over_root_two_pi = 0.398942280401432678f;
  const Floats square = x * x;
  const Floats outside = bits<Floats>(bits<Words>(constant(1.0f)) & mask(x > 0.0f));
  const Floats phi = choose(mask(square > PHI_LIMIT), outside, x * phi_over_x(square) + 0.5f);
  return phi + x * one_over_root_two_pi * exp_of_nonpositive(square * -0.5f);
}

INTRAFORMER_INLINE Floats greater(Floats a, Floats b) { return choose(mask(a > b), a, b); }

// A NaN may get lost. Halves first, by shuffles, as sum_of_lanes.
template <typename T, int N>
INTRAFORMER_INLINE T greatest_of(Vector<T, N> v) {
  if constexpr (N == 4) {
    using Order = Vector<int32_t, 4>;
    const Vector<T, 4> swapped = __builtin_shuffle(v, Order{2, 3, 0, 1});
    v = v > swapped ? v : swapped;
    return v[0] > v[1] ? v[0] : v[1];
  }
#if defined(__AVX512F__)
  if constexpr (N == 16) {
    using Half = Vector<T, 8>;
    const __m512i all = bits<__m512i>(v);
    const Half low = bits<Half>(_mm512_castsi512_si256(all)), high = bits<Half>(_mm512_extracti64x4_epi64(all, 1));
    return greatest_of<T, 8>(low > high ? low : high);
  }
#endif
#if defined(__AVX2__)
  if constexpr (N == 8) {
    using Half = Vector<T, 4>;
    const __m256i all = bits<__m256i>(v);
    const Half low = bits<Half>(_mm256_castsi256_si128(all)), high = bits<Half>(_mm256_extracti128_si256(all, 1));
    return greatest_of<T, 4>(low > high ? low : high);
  }
#endif
}

INTRAFORMER_INLINE float greatest_of_lanes(Floats v) { return greatest_of<float, LANES>(v); }

// Of a row: its mean, and 1 / sqrt(variance + epsilon).
struct Moments {
  float mean, scale;
};

INTRAFORMER_INLINE Moments moments_of(const float* x, int64_t width, float epsilon) {
  Floats sum{}, squares{};
  for (int64_t j = 0; j < width; j += LANES) sum += load<Floats>(x + j);
  const float mean = sum_of_lanes<float, LANES>(sum) / static_cast<float>(width);
  for (int64_t j = 0; j < width; j += LANES) {
    const Floats centred = load<Floats>(x + j) - mean;
    squares += centred * centred;
  }
  const float variance = sum_of_lanes<float, LANES>(squares) / static_cast<float>(width);
  return {mean, 1.0f / __builtin_sqrtf(variance + epsilon)};
}

// sink(j, (x - mean) / sqrt(variance + epsilon) * weight + bias) for each vector of a row.
template <typename Sink>
INTRAFORMER_INLINE void layer_norm(
    const float* x, int64_t width, const float* weight, const float* bias, float epsilon, Sink sink) {
  const Moments moments = moments_of(x, width, epsilon);
  for (int64_t j = 0; j < width; j += LANES) {
    sink(j, (load<Floats>(x + j) - moments.mean) * moments.scale * load<Floats>(weight + j) + load<Floats>(bias + j));
  }
}

template <int N>
struct Count {
  static constexpr int value = N;
};

template <int ROWS, typename Sink>
INTRAFORMER_INLINE void softmax_rows(
    float* x, int64_t row, int64_t columns, float scale, const uint32_t* keep, int64_t first, Sink sink) {
  const Floats nothing = constant(-__builtin_inff());
  Floats greatest[ROWS], sums[ROWS] = {};
  float shift[ROWS], inverse[ROWS];
  for (int r = 0; r < ROWS; ++r) greatest[r] = nothing;
  for (int64_t j = 0; j < columns; j += LANES) {
    const Words kept = load<Words>(keep + j);
    for (int r = 0; r < ROWS; ++r) {
      const Floats v = choose(kept, load<Floats>(x + r * row + j) * scale, nothing);
      greatest[r] = greater(v, greatest[r]);
      store(x + r * row + j, v);
    }
  }
  for (int r = 0; r < ROWS; ++r) {
    const float peak = greatest_of_lanes(greatest[r]);
    // A row that keeps nothing would be -inf - -inf; a kept NaN is not the greatest, and makes the sum NaN.
    shift[r] = peak == -__builtin_inff() ? 0.0f : peak;
  }
  for (int64_t j = 0; j < columns; j += LANES) {
    for (int r = 0; r < ROWS; ++r) {
      const Floats v = exp_of_nonpositive(load<Floats>(x + r * row + j) - shift[r]);
      sums[r] += v;
      store(x + r * row + j, v);
    }
  }
  for (int r = 0; r < ROWS; ++r) {
    const float total = sum_of_lanes<float, LANES>(sums[r]);
    inverse[r] = total == 0.0f ? 0.0f : 1.0f / total;
  }
  for (int64_t j = 0; j < columns; j += LANES) {
    for (int r = 0; r < ROWS; ++r) sink(first + r, j, load<Floats>(x + r * row + j) * inverse[r]);
  }
}

// Rows are taken several at a time: what one waits for the others fill.
template <typename Body>
INTRAFORMER_INLINE void for_each_four(int64_t rows, Body body) {
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) body(r, Count<4>{});
  if (r + 2 <= rows) body(r, Count<2>{}), r += 2;
  if (r < rows) body(r, Count<1>{});
}

// sink(r, j, softmax of scale * x) for each vector of rows that begin `row` floats after one another, over the columns whose `keep`
// is all ones; the others, whatever they hold, give 0, and so does every column of a row that keeps none. Overwrites x.
template <typename Sink>
INTRAFORMER_INLINE void softmax(
    int64_t rows, float* x, int64_t row, int64_t columns, float scale, const uint32_t* keep, Sink sink) {
  for_each_four(rows, [&](int64_t r, auto count) {
    softmax_rows<decltype(count)::value>(x + r * row, row, columns, scale, keep, r, sink);
  });
}

// The gradients of the scores, scale p (g - sum(p g)), from rows of the softmax p and its gradients g, which are overwritten.
INTRAFORMER_INLINE void softmax_backward(int64_t rows, const float* p, float* g, int64_t row, int64_t columns, float scale) {
  for_each_four(rows, [&](int64_t first, auto count) {
    constexpr int ROWS = decltype(count)::value;
    const float* const from = p + first * row;
    float* const to = g + first * row;
    Floats sums[ROWS] = {};
    float means[ROWS];
    for (int64_t j = 0; j < columns; j += LANES) {
      for (int r = 0; r < ROWS; ++r) sums[r] += load<Floats>(from + r * row + j) * load<Floats>(to + r * row + j);
    }
    for (int r = 0; r < ROWS; ++r) means[r] = sum_of_lanes<float, LANES>(sums[r]);
    for (int64_t j = 0; j < columns; j += LANES) {
      for (int r = 0; r < ROWS; ++r) {
        const Floats centred = load<Floats>(to + r * row + j) - means[r];
        store(to + r * row + j, load<Floats>(from + r * row + j) * centred * scale);
      }
    }
  });
}

}  // namespace
