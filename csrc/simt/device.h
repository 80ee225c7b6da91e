// What a kernel source includes: CUDA under nvcc, the emulation of simt.h under any other compiler. The few things that the two
// spell differently have one name here.
#pragma once

#ifdef __CUDACC__

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

// An array of `size` elements that the threads of a block share, uninitialised.
#define SIMT_SHARED_ARRAY(type, name, size) __shared__ type name[size]

namespace simt {

// Moves a Pack in accesses as wide as its alignment, which the address must have.
template <typename Pack>
__device__ __forceinline__ Pack load_pack(const void* address) {
  return *static_cast<const Pack*>(address);
}

// By an intrinsic: left to itself the compiler may store one by one what was computed one by one.
template <typename Pack>
__device__ __forceinline__ void store_pack(void* address, const Pack& pack) {
  static_assert(sizeof(Pack) == sizeof(uint4) && alignof(Pack) == alignof(uint4), "16 bytes");
  uint4 bits;
  memcpy(&bits, &pack, sizeof bits);
  __stwb(static_cast<uint4*>(address), bits);
}

template <typename... Parameters, typename... Arguments>
void launch_kernel(void (*kernel)(Parameters...), dim3 grid, dim3 block, cudaStream_t stream, Arguments... arguments) {
  kernel<<<grid, block, 0, stream>>>(arguments...);
}

}  // namespace simt

#else

#include "simt.h"

#define SIMT_SHARED_ARRAY(type, name, size) \
  static const char name##_declaration = 0; \
  type(&name)[size] = simt::shared_array<type, size>(&name##_declaration)

namespace simt {

template <typename Pack>
Pack load_pack(const void* address) {
  check_aligned(address, alignof(Pack));
  return *static_cast<const Pack*>(address);
}

template <typename Pack>
void store_pack(void* address, const Pack& pack) {
  check_aligned(address, alignof(Pack));
  *static_cast<Pack*>(address) = pack;
}

template <typename... Parameters, typename... Arguments>
void launch_kernel(void (*kernel)(Parameters...), dim3 grid, dim3 block, cudaStream_t, Arguments... arguments) {
  launch(grid, block, [=] { kernel(arguments...); });
}

}  // namespace simt

#endif
