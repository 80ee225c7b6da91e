// The part of CUDA's thread model that the kernels use, on a CPU: kernel source compiled by a plain C++ compiler runs block by
// block, each thread of a block a fiber, and rules that a GPU leaves unchecked are errors here:
//
//   - a shuffle or ballot whose mask leaves out the caller, that its lanes reach at different places or with different masks, or
//     that reads from a lane which takes no part;
//   - a block barrier that some threads never reach, or that they reach at different places;
//   - a wide access to an address that is no multiple of its width;
//   - an access next to a shared array: each stands between canaries (poisoned memory under AddressSanitizer);
//   - a read of shared memory before it is written: every byte starts as 0xFF, which is NaN in every floating-point format.
//
// Between two such points the threads of a block run one after the other, in an order drawn anew each time from the seed. Under
// ThreadSanitizer an access is ordered after another thread's by __syncthreads alone, as in CUDA: a shuffle orders nothing.
// Not here: __syncwarp, atomics, dynamic shared memory, asynchronous copies, matrix instructions, textures.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

using cudaStream_t = void*;

// Of the thread that runs now.
inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

namespace simt {

// A rule was broken; the message names thread, block and source line.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Seed of the order in which threads run. 0, the default, is the order of their indices.
void set_order(uint64_t seed);

// Runs every block of a grid to its end.
void launch(dim3 grid, dim3 block, const std::function<void()>& kernel);

enum class Meeting { block_barrier, shuffle, ballot };

// One thread's part in a meeting of a block or of the lanes in `mask`; returns when all have come. A shuffle returns the `value`
// that lane `source` brought, a ballot the lanes that brought a nonzero one.
uint64_t meet(Meeting meeting, unsigned mask, uint64_t value, int source, const char* file, int line);

int lane();

// An access to an address that is no multiple of its alignment faults on a GPU.
void check_aligned(const void* address, size_t alignment);

// The block's array behind one declaration in a kernel.
void* shared_bytes(const void* declaration, size_t size, size_t alignment);

template <typename T, size_t size>
T (&shared_array(const void* declaration))
[size] { return *static_cast<T(*)[size]>(shared_bytes(declaration, sizeof(T) * size, alignof(T))); }

template <typename T>
T shuffle(unsigned mask, T value, int source, const char* file, int line) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "CUDA shuffles 4 and 8 bytes");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = meet(Meeting::shuffle, mask, bits, source, file, line);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace simt

#define SIMT_CALLER const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(SIMT_CALLER) { simt::meet(simt::Meeting::block_barrier, ~0u, 0, 0, file, line); }

inline unsigned __ballot_sync(unsigned mask, int predicate, SIMT_CALLER) {
  return unsigned(simt::meet(simt::Meeting::ballot, mask, predicate != 0, 0, file, line));
}

// Lanes outside the caller's segment of `width` are read as CUDA does it: the caller's own value instead.
template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, SIMT_CALLER) {
  const int segment = simt::lane() & ~(width - 1);
  return simt::shuffle(mask, value, segment | (source & (width - 1)), file, line);
}

template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, SIMT_CALLER) {
  const int lane = simt::lane();
  const bool inside = (lane & (width - 1)) + int(delta) < width;
  return simt::shuffle(mask, value, inside ? lane + int(delta) : lane, file, line);
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, SIMT_CALLER) {
  const int lane = simt::lane(), source = lane ^ lane_mask;
  return simt::shuffle(mask, value, source < (lane | (width - 1)) + 1 ? source : lane, file, line);
}

#undef SIMT_CALLER

// The 16-bit floating-point formats; conversions round to nearest even, as the intrinsics of the same name.
struct __half {
  uint16_t bits;
};

struct __nv_bfloat16 {
  uint16_t bits;
};

inline float __half2float(__half half) {
  const int exponent = half.bits >> 10 & 31, mantissa = half.bits & 1023;
  const float size = exponent == 31  ? (mantissa ? NAN : INFINITY)
                     : exponent == 0 ? std::ldexp(float(mantissa), -24)
                                     : std::ldexp(float(1024 + mantissa), exponent - 25);
  return half.bits & 0x8000 ? -size : size;
}

inline __half __float2half_rn(float value) {
  const float size = std::fabs(value);
  unsigned bits;
  if (std::isnan(value)) {
    bits = 0x7e00;
  } else if (size >= 65520.0f) {
    bits = 0x7c00;
  } else if (size < 6.103515625e-5f) {
    bits = unsigned(std::nearbyint(std::ldexp(size, 24)));  // subnormal; 1024 is already the smallest normal number
  } else {
    int exponent;
    const float mantissa = std::frexp(size, &exponent);
    bits = unsigned(exponent + 13) * 1024 + unsigned(std::nearbyint(std::ldexp(mantissa, 11)));  // 1024..2048 carries over
  }
  return {uint16_t(bits | (std::signbit(value) ? 0x8000 : 0))};
}

inline float __bfloat162float(__nv_bfloat16 value) {
  const uint32_t bits = uint32_t(value.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

inline __nv_bfloat16 __float2bfloat16_rn(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if (std::isnan(value)) return {0x7fff};
  return {uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
