// Small kernels, each right or breaking one rule of csrc/simt; the argument names one. Status 0 and no words: nothing was wrong.
#include <cstdio>
#include <cstring>
#include <exception>
#include <vector>

#include "simt/device.h"

namespace {

constexpr int THREADS = 96;

__global__ void sums_by_shuffle(int* out) {
  int value = threadIdx.x;
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_down_sync(~0u, value, distance);
  out[threadIdx.x] = __shfl_sync(~0u, value, 0);
}

__global__ void neighbor_in_half_warp(int* out) { out[threadIdx.x] = __shfl_down_sync(~0u, int(threadIdx.x), 1, 16); }

__global__ void ballot_of_odd(int* out) { out[threadIdx.x] = int(__ballot_sync(~0u, threadIdx.x % 2)); }

__global__ void half_a_warp_shuffles(int* out) {
  if (threadIdx.x % 32 < 16) out[threadIdx.x] = __shfl_xor_sync(0xffffu, int(threadIdx.x), 1);
}

__global__ void reversed_through_shared(int* out) {
  SIMT_SHARED_ARRAY(int, values, THREADS);
  values[threadIdx.x] = threadIdx.x;
  __syncthreads();
  out[threadIdx.x] = values[THREADS - 1 - threadIdx.x];
}

__global__ void shared_without_barrier(int* out) {
  SIMT_SHARED_ARRAY(int, values, THREADS);
  values[threadIdx.x] = threadIdx.x;
  __shfl_sync(~0u, 0, 0);  // orders nothing
  out[threadIdx.x] = values[THREADS - 1 - threadIdx.x];
}

__global__ void shared_unwritten(int* out) {
  SIMT_SHARED_ARRAY(int, values, THREADS);
  out[threadIdx.x] = values[threadIdx.x];
}

__global__ void blocks_at_one_address(int* out) { out[threadIdx.x] = blockIdx.x; }

__global__ void barrier_in_a_branch(int*) {
  if (threadIdx.x < 32) __syncthreads();
}

__global__ void two_barriers(int*) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

__global__ void shuffle_in_a_branch(int* out) {
  if (threadIdx.x % 2) out[threadIdx.x] = __shfl_xor_sync(~0u, 1, 2);
  __syncthreads();
}

__global__ void mask_without_caller(int* out) { out[threadIdx.x] = __shfl_xor_sync(0xfffffffeu, 1, 2); }

__global__ void masks_that_differ(int* out) { out[threadIdx.x] = __shfl_xor_sync(threadIdx.x % 2 ? ~0u : 0x7fffffffu, 1, 2); }

__global__ void reads_a_lane_outside(int* out) {
  if (threadIdx.x % 32 < 16) out[threadIdx.x] = __shfl_xor_sync(0xffffu, 1, 16);
}

__global__ void writes_past_shared(int*) {
  SIMT_SHARED_ARRAY(int, values, 8);
  int* const first = values;
  first[threadIdx.x < 8 ? threadIdx.x : 8] = 1;
}

__global__ void misaligned(int* out) {
  struct alignas(16) Four {
    int values[4];
  };
  simt::store_pack(out + 1, Four{});
}

const struct {
  const char* name;
  void (*kernel)(int*);
  unsigned blocks;
} KERNELS[] = {
#define KERNEL(name, blocks) {#name, name, blocks}
    KERNEL(sums_by_shuffle, 1),      KERNEL(neighbor_in_half_warp, 1),   KERNEL(ballot_of_odd, 1),
    KERNEL(half_a_warp_shuffles, 1), KERNEL(reversed_through_shared, 1), KERNEL(shared_without_barrier, 1),
    KERNEL(shared_unwritten, 1),     KERNEL(blocks_at_one_address, 2),   KERNEL(barrier_in_a_branch, 1),
    KERNEL(two_barriers, 1),         KERNEL(shuffle_in_a_branch, 1),     KERNEL(mask_without_caller, 1),
    KERNEL(masks_that_differ, 1),    KERNEL(reads_a_lane_outside, 1),    KERNEL(writes_past_shared, 1),
    KERNEL(misaligned, 1),
#undef KERNEL
};

}  // namespace

int main(int count, char** arguments) {
  alignas(16) static int out[THREADS];
  for (const auto& [name, kernel, blocks] : KERNELS) {
    if (count < 2 || std::strcmp(arguments[1], name) != 0) continue;
    try {
      simt::launch_kernel(kernel, dim3(blocks), dim3(THREADS), nullptr, out);
    } catch (const simt::Error& error) {
      std::fprintf(stderr, "%s\n", error.what());
      return 1;
    }
    for (const int value : out) std::printf("%d ", value);
    return 0;
  }
  std::fprintf(stderr, "no such kernel\n");
  return 2;
}
