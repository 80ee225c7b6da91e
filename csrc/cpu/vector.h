// Vectors of LANES numbers in the compiler's own vector extension: one source for every instruction set, ARM included.
//
// Included by the files that are compiled once per instruction set. All of it has internal linkage, and nothing here or there
// may instantiate a template of the standard library: the linker would keep one copy for all sets, say the AVX-512 one.
#pragma once

#include <cstdint>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#ifndef INTRAFORMER_LANES
#error "INTRAFORMER_LANES (floats in a vector register) is set by the build for each instruction set"
#endif

#define INTRAFORMER_INLINE static inline __attribute__((always_inline))

namespace {

constexpr int LANES = INTRAFORMER_LANES;

template <typename T, int N>
struct VectorOf {
  typedef T type __attribute__((vector_size(sizeof(T) * N)));
};
template <typename T, int N>
using Vector = typename VectorOf<T, N>::type;

using Floats = Vector<float, LANES>;
using Words = Vector<uint32_t, LANES>;
using Ints = Vector<int32_t, LANES>;
using Halves = Vector<uint16_t, LANES>;
using Bytes = Vector<uint8_t, LANES>;

template <typename V>
INTRAFORMER_INLINE V load(const void* from) {
  V v;
  __builtin_memcpy(&v, from, sizeof v);  // no alignment is promised
  return v;
}

template <typename V>
INTRAFORMER_INLINE void store(void* to, V v) {
  __builtin_memcpy(to, &v, sizeof v);
}

template <typename To, typename From>
INTRAFORMER_INLINE To bits(From v) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &v, sizeof to);
  return to;
}

INTRAFORMER_INLINE Floats constant(float x) { return x - Floats{}; }

// By intrinsics where there are some: g++ 12 takes __builtin_convertvector between these widths apart, lane by lane.

INTRAFORMER_INLINE Words widen(Bytes b) {
#if defined(__AVX512F__)
  return bits<Words>(_mm512_cvtepu8_epi32(bits<__m128i>(b)));
#elif defined(__AVX2__)
  return bits<Words>(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(bits<long long>(b))));
#elif defined(__SSE2__)
  const __m128i zero = _mm_setzero_si128();
  return bits<Words>(_mm_unpacklo_epi16(_mm_unpacklo_epi8(_mm_cvtsi32_si128(bits<int>(b)), zero), zero));
#else
  return __builtin_convertvector(b, Words);
#endif
}

INTRAFORMER_INLINE Words widen(Halves h) {
#if defined(__AVX512F__)
  return bits<Words>(_mm512_cvtepu16_epi32(bits<__m256i>(h)));
#elif defined(__AVX2__)
  return bits<Words>(_mm256_cvtepu16_epi32(bits<__m128i>(h)));
#elif defined(__SSE2__)
  return bits<Words>(_mm_unpacklo_epi16(_mm_cvtsi64_si128(bits<long long>(h)), _mm_setzero_si128()));
#else
  return __builtin_convertvector(h, Words);
#endif
}

// The low half of each.
INTRAFORMER_INLINE Halves narrow(Words w) {
#if defined(__AVX512F__)
  return bits<Halves>(_mm512_cvtepi32_epi16(bits<__m512i>(w)));
#elif defined(__SSE2__)
  const Vector<int32_t, LANES> extended = bits<Vector<int32_t, LANES> >(w << 16) >> 16;  // so that saturation changes nothing
#if defined(__AVX2__)
  const __m256i v = bits<__m256i>(extended);
  return bits<Halves>(_mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)));
#else
  return bits<Halves>(_mm_cvtsi128_si64(_mm_packs_epi32(bits<__m128i>(extended), _mm_setzero_si128())));
#endif
#else
  return __builtin_convertvector(w, Halves);
#endif
}

// The lowest byte of each.
INTRAFORMER_INLINE Bytes lowest(Words w) {
#if defined(__AVX512F__)
  return bits<Bytes>(_mm512_cvtepi32_epi8(bits<__m512i>(w)));
#elif defined(__SSE2__)
  const Words alone = w & 0xffu;  // so that saturation changes nothing
#if defined(__AVX2__)
  const __m256i v = bits<__m256i>(alone);
  const __m128i pairs = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  return bits<Bytes>(_mm_cvtsi128_si64(_mm_packus_epi16(pairs, pairs)));
#else
  const __m128i pairs = _mm_packs_epi32(bits<__m128i>(alone), _mm_setzero_si128());
  return bits<Bytes>(_mm_cvtsi128_si32(_mm_packus_epi16(pairs, pairs)));
#endif
#else
  return __builtin_convertvector(w, Bytes);
#endif
}

// All ones where the condition of the comparison holds.
template <typename C>
INTRAFORMER_INLINE Words mask(C comparison) {
  return bits<Words>(comparison);
}

INTRAFORMER_INLINE Words choose(Words where, Words a, Words b) { return (where & a) | (~where & b); }
INTRAFORMER_INLINE Floats choose(Words where, Floats a, Floats b) {
  return bits<Floats>(choose(where, bits<Words>(a), bits<Words>(b)));
}

// A bit for each lane, set where x >= y.
INTRAFORMER_INLINE uint32_t lanes_at_least(Floats x, Floats y) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(bits<__m512>(x), bits<__m512>(y), _CMP_GE_OQ);
#elif defined(__AVX2__)
  return static_cast<uint32_t>(_mm256_movemask_ps(bits<__m256>(x >= y)));
#elif defined(__SSE2__)
  return static_cast<uint32_t>(_mm_movemask_ps(bits<__m128>(x >= y)));
#else
  uint32_t lanes = 0;
  for (int i = 0; i < LANES; ++i) lanes |= (x[i] >= y[i] ? 1u : 0u) << i;
  return lanes;
#endif
}

// Halves first, so that the order of the additions is that of the vector's width alone. By shuffles: a vector taken apart through
// memory waits for the store.
template <typename T, int N>
INTRAFORMER_INLINE T sum_of_lanes(Vector<T, N> v) {
  if constexpr (N == 4) {
    using Order = Vector<int32_t, 4>;
    v += __builtin_shuffle(v, Order{2, 3, 0, 1});
    return v[0] + v[1];
  }
#if defined(__AVX512F__)
  if constexpr (N == 16) {
    using Half = Vector<T, 8>;
    const __m512i all = bits<__m512i>(v);
    return sum_of_lanes<T, 8>(bits<Half>(_mm512_castsi512_si256(all)) + bits<Half>(_mm512_extracti64x4_epi64(all, 1)));
  }
#endif
#if defined(__AVX2__)
  if constexpr (N == 8) {
    using Half = Vector<T, 4>;
    const __m256i all = bits<__m256i>(v);
    return sum_of_lanes<T, 4>(bits<Half>(_mm256_castsi256_si128(all)) + bits<Half>(_mm256_extracti128_si256(all, 1)));
  }
#endif
}

// exp(x) for x <= 0; 0 below x = -87, near where the result would be denormal; NaN stays NaN.
// x log2(e) = k + f with |f| <= 1/2, and 2^f by the polynomial of degree 5 with the least relative error, 9.1e-8. The product
// keeps the 24 digits of log2(e), which adds |x| 1.3e-8: two units in the last place down to x = -10.
INTRAFORMER_INLINE Floats exp_of_nonpositive(Floats x) {
  constexpr float log2_e = 1.44269504088896341f;
  // Adding it rounds to an integer k; the low bits then hold k + 127, the exponent field of 2^k.
  constexpr float round = 12582912.0f + 127.0f;
  const Floats shifted = x * log2_e + round;
  const Floats k = shifted - round;
  const Floats f = x * log2_e - k;
  Floats p = f * 1.326472730e-3f + 9.671512991e-3f;
  p = p * f + 5.550733581e-2f;
  p = p * f + 2.402224243e-1f;
  p = p * f + 6.931470037e-1f;
  p = p * f + 1.0f;
#if defined(__AVX512F__)
  const __mmask16 normal = _mm512_cmp_ps_mask(bits<__m512>(x), _mm512_set1_ps(-87.0f), _CMP_NLT_UQ);
  return bits<Floats>(_mm512_maskz_scalef_ps(normal, bits<__m512>(p), bits<__m512>(k)));
#else
  const Floats result = p * bits<Floats>(bits<Words>(shifted) << 23);
  return bits<Floats>(bits<Words>(result) & ~mask(x < -87.0f));
#endif
}

// The 16-bit formats, by their bits: the same on every processor, and right for denormals, infinities and NaN.

INTRAFORMER_INLINE Floats from_bfloat16(Halves h) { return bits<Floats>(widen(h) << 16); }

// To the nearest, ties to even.
INTRAFORMER_INLINE Halves to_bfloat16(Floats x) {
  const Words u = bits<Words>(x);
  const Words rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  return narrow(choose(mask(x != x), Words{} + 0x7fc0u, rounded));
}

INTRAFORMER_INLINE Floats from_float16(Halves h) {
  const Words wide = widen(h);
  const Words magnitude = wide & 0x7fffu;
  const Words moved = magnitude << 13;
  const Words normal = moved + (112u << 23) + (mask(magnitude >= 0x7c00u) & (112u << 23));
  const Words tiny = bits<Words>(bits<Floats>(moved + (113u << 23)) - bits<Floats>(Words{} + (113u << 23)));
  return bits<Floats>(choose(mask(magnitude < 0x0400u), tiny, normal) | ((wide & 0x8000u) << 16));
}

// To the nearest, ties to even.
INTRAFORMER_INLINE Halves to_float16(Floats x) {
  const Words all = bits<Words>(x);
  const Words u = all & 0x7fffffffu;
  const Words magic = Words{} + ((127u - 15u + 23u - 10u + 1u) << 23);  // adding it shifts a result below 2^-14 into place
  const Words tiny = bits<Words>(bits<Floats>(u) + bits<Floats>(magic)) - magic;
  const Words normal = (u - (112u << 23) + 0xfffu + ((u >> 13) & 1u)) >> 13;
  const Words large = choose(mask(u > (255u << 23)), Words{} + 0x7e00u, Words{} + 0x7c00u);
  Words result = choose(mask(u < (113u << 23)), tiny, normal);
  result = choose(mask(u >= (143u << 23)), large, result);
  return narrow(result | ((all >> 16) & 0x8000u));
}

}  // namespace
