// The kernels of purity_fmi and the shapes of their launches. What they compute is in op.h; here is only which thread does it.
//
//   forward         a warp a row, or a block a row where rows are long: one pass over prediction, target and mask in 16-byte
//   loads backward        the same shape; every row has two coefficients, every element is written once means           one
//   block: the batch's means, gamma_f among them, and nothing for the host to wait for means_backward  a thread a row
//
// There are no atomics, and every sum has a fixed order: results repeat bit for bit. Offsets that multiply a row index are
// 64-bit. Compiled by nvcc for a GPU, and by any C++ compiler for the emulation (csrc/simt).
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "../simt/device.h"
#include "op.h"

namespace intraformer::purity_fmi {

constexpr int WARP_SIZE = 32;
constexpr unsigned ALL_LANES = 0xffffffff;
constexpr int ROW_THREADS = 256;  // a block of forward or backward

// Blocks that a multiprocessor has to be able to hold: at most 64 registers a thread, 128 where exp is the long one of double.
template <typename P>
constexpr int ROW_BLOCKS = sizeof(P) == sizeof(double) ? 2 : 4;
constexpr int MEANS_THREADS = 512;  // the block of means

// Threads that share a row of n columns: a warp up to the length from which a block has at least one 16-byte load a thread.
constexpr int threads_per_row(int64_t columns) { return columns <= 1024 ? WARP_SIZE : ROW_THREADS; }

template <typename P>
struct AccumulatorOf {
  using type = float;
};

template <>
struct AccumulatorOf<double> {
  using type = double;
};

template <typename P>
using Accumulator = typename AccumulatorOf<P>::type;

template <typename T>
struct Matrix {
  const T* data;
  int64_t row_stride, column_stride;  // in elements
};

template <typename T>
struct Vector {
  const T* data;
  int64_t stride;
};

// P is the type of the predictions, T that of the targets: uint8_t stands for bool too.
template <typename P, typename T>
struct Inputs {
  Matrix<P> prediction;
  Matrix<T> target;
  Matrix<uint8_t> valid;  // no data: every neighbour is valid
  int64_t rows, columns;
  bool from_logits, exact;
};

template <typename A>
struct Outputs {
  A* loss;
  A* purity;
  A* sums;  // [rows, 3]
};

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ double widen(double x) { return x; }
__device__ __forceinline__ float widen(__half x) { return __half2float(x); }
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ int widen(uint8_t x) { return x; }
__device__ __forceinline__ int64_t widen(int64_t x) { return x; }

__device__ __forceinline__ void narrow(float x, float& result) { result = x; }
__device__ __forceinline__ void narrow(double x, double& result) { result = x; }
__device__ __forceinline__ void narrow(float x, __half& result) { result = __float2half_rn(x); }
__device__ __forceinline__ void narrow(float x, __nv_bfloat16& result) { result = __float2bfloat16_rn(x); }

__device__ __forceinline__ Probability<double> probability(double logit) { return probability_from_logit(logit); }

// The formula of op.h with the GPU's own exponential and reciprocal, each within two units in the last place: with correctly
// rounded ones, 15 instructions more an element, the kernels would wait for arithmetic instead of memory.
__device__ __forceinline__ Probability<float> probability(float logit) {
#ifdef __CUDA_ARCH__
  const float decay = __expf(-fabsf(logit));
  float reciprocal;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(reciprocal) : "f"(1.0f + decay));  // of a number from 1 to 2
  const float rest = decay * reciprocal;
  return {logit < 0.0f ? rest : reciprocal, rest * reciprocal};
#else
  return probability_from_logit(logit);
#endif
}

// N neighbouring elements, aligned so that they move in as few accesses as the hardware allows.
template <typename T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Pack {
  T values[N];
};

template <int N, typename T>
__device__ __forceinline__ bool is_aligned(const T* address) {
  return reinterpret_cast<uintptr_t>(address) % alignof(Pack<T, N>) == 0;
}

// One row: where it starts in each matrix.
template <typename P, typename T>
struct Row {
  const P* prediction;
  const T* target;
  const uint8_t* valid;
};

// N columns of a row from `column` on; more than one where they are neighbours in memory and aligned.
template <int N, typename T>
__device__ __forceinline__ Pack<T, N> load(const T* row, int64_t column, int64_t column_stride) {
  if constexpr (N > 1) return simt::load_pack<Pack<T, N>>(row + column);
  return {row[column * column_stride]};
}

template <typename A, int N>
struct Elements {
  static constexpr int count = N;
  Probability<A> prediction[N];
  bool positive[N];  // the target is 1
  bool unknown[N];   // it is neither 0 nor 1
  bool valid[N];     // where not, the prediction is 0, and the target neither positive nor unknown
};

template <int N, typename P, typename T>
__device__ __forceinline__ Elements<Accumulator<P>, N> load_elements(
    const Inputs<P, T>& in, const Row<P, T>& row, int64_t column) {
  using A = Accumulator<P>;
  Elements<A, N> elements;
  const auto prediction = load<N>(row.prediction, column, in.prediction.column_stride);
  const auto target = load<N>(row.target, column, in.target.column_stride);
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const auto y = widen(target.values[i]);
    elements.positive[i] = y == 1;
    elements.unknown[i] = y != 1 && y != 0;
    elements.valid[i] = true;
    elements.prediction[i] = {widen(prediction.values[i]), A(1)};
  }
  if (in.from_logits) {
#pragma unroll
    for (int i = 0; i < N; ++i) elements.prediction[i] = probability(elements.prediction[i].value);
  }
  if (row.valid) {
    const auto valid = load<N>(row.valid, column, in.valid.column_stride);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if (valid.values[i] != 0) continue;
      elements.prediction[i].value = A(0);
      elements.positive[i] = elements.unknown[i] = elements.valid[i] = false;
    }
  }
  return elements;
}

// Calls visit(column, elements) for this thread's part of a row: groups of 16 bytes of predictions, from their first boundary on,
// and one by one the columns before the first group (the head) and after the last. Targets, mask and output have to have a
// boundary at the same column, as in tensors of one shape they do; in a row where they have not, or are no neighbours in memory,
// all go one by one.
template <typename P, typename T, typename Visit>
__device__ __forceinline__ void visit_row(const Inputs<P, T>& in, int64_t row, const P* output, const Visit& visit) {
  constexpr int GROUP = 16 / sizeof(P);
  const Row<P, T> start{
      in.prediction.data + row * in.prediction.row_stride, in.target.data + row * in.target.row_stride,
      in.valid.data ? in.valid.data + row * in.valid.row_stride : nullptr};
  const int past = int(reinterpret_cast<uintptr_t>(start.prediction) / sizeof(P) % GROUP);
  const int head = past ? GROUP - past : 0;
  const bool wide = in.columns > head && in.prediction.column_stride == 1 && in.target.column_stride == 1 &&
                    is_aligned<GROUP>(start.target + head) && (!output || is_aligned<GROUP>(output + head)) &&
                    (!start.valid || (in.valid.column_stride == 1 && is_aligned<GROUP>(start.valid + head)));
  const int64_t groups = wide ? (in.columns - head) / GROUP : 0;
#pragma unroll 1
  for (int64_t group = threadIdx.x; group < groups; group += blockDim.x) {
    const int64_t column = head + group * GROUP;
    visit(column, load_elements<GROUP>(in, start, column));
  }
#pragma unroll 1
  for (int64_t single = threadIdx.x; single < in.columns - groups * GROUP; single += blockDim.x) {
    const int64_t column = single < head ? single : single + groups * GROUP;
    visit(column, load_elements<1>(in, start, column));
  }
}

// The sum over a warp, in every lane.
template <typename A>
__device__ __forceinline__ A warp_sum(A value) {
#pragma unroll
  for (int distance = WARP_SIZE / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(ALL_LANES, value, distance);
  return value;
}

// A block holds blockDim.y rows of blockDim.x threads; blockDim.x is a multiple of the warp, so no warp spans two rows.
template <typename P, typename T>
__global__ void __launch_bounds__(ROW_THREADS, ROW_BLOCKS<P>) forward_kernel(Inputs<P, T> in, Outputs<Accumulator<P>> out) {
  using A = Accumulator<P>;
  SIMT_SHARED_ARRAY(RowSums<A>, partial, ROW_THREADS / WARP_SIZE);
  const int64_t first_row = int64_t(blockIdx.x) * blockDim.y;
  const int64_t row = first_row + threadIdx.y;
  RowSums<A> sums{A(0), A(0), A(0)};
  bool unknown = false;
  if (row < in.rows) {
    visit_row<P, T>(in, row, nullptr, [&](int64_t, const auto& elements) {
#pragma unroll
      for (int i = 0; i < elements.count; ++i) {
        const A q = elements.prediction[i].value;
        sums.predicted += q;
        sums.true_positive += elements.positive[i] ? q : A(0);
        sums.actual += A(elements.positive[i] ? 1 : 0);
        unknown |= elements.unknown[i];
      }
    });
  }
  if (unknown) sums.actual = A(NAN);
  sums = {warp_sum(sums.true_positive), warp_sum(sums.predicted), warp_sum(sums.actual)};
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;
  if (thread % WARP_SIZE == 0) partial[thread / WARP_SIZE] = sums;
  __syncthreads();

  // The block's rows are finished side by side by its first threads, so that neighbouring results are written together.
  const int64_t finished_row = first_row + thread;
  if (thread < int(blockDim.y) && finished_row < in.rows) {
    const int warps = blockDim.x / WARP_SIZE;
    RowSums<A> total = partial[thread * warps];
#pragma unroll 1
    for (int warp = 1; warp < warps; ++warp) {
      const RowSums<A> part = partial[thread * warps + warp];
      total.true_positive += part.true_positive;
      total.predicted += part.predicted;
      total.actual += part.actual;
    }
    out.loss[finished_row] = row_loss(total, in.exact);
    out.purity[finished_row] = row_purity(total);
    out.sums[finished_row * 3] = total.true_positive;
    out.sums[finished_row * 3 + 1] = total.predicted;
    out.sums[finished_row * 3 + 2] = total.actual;
  }
}

template <typename P, typename T>
__global__ void __launch_bounds__(ROW_THREADS, ROW_BLOCKS<P>) backward_kernel(
    Inputs<P, T> in,
    const Accumulator<P>* sums,
    Vector<Accumulator<P>> grad_loss,
    Vector<Accumulator<P>> grad_purity,
    P* grad_prediction) {
  using A = Accumulator<P>;
  const int64_t row = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
  if (row >= in.rows) return;  // by whole warps

  // The row's five scalars, each fetched by a lane of its own: one access a warp instead of five.
  const int lane = threadIdx.x % WARP_SIZE;
  A scalar = A(0);
  if (lane < 3) scalar = sums[row * 3 + lane];
  if (lane == 3) scalar = grad_loss.data[row * grad_loss.stride];
  if (lane == 4) scalar = grad_purity.data[row * grad_purity.stride];
  const RowSums<A> row_sums{
      __shfl_sync(ALL_LANES, scalar, 0), __shfl_sync(ALL_LANES, scalar, 1), __shfl_sync(ALL_LANES, scalar, 2)};
  const A by_loss = __shfl_sync(ALL_LANES, scalar, 3), by_purity = __shfl_sync(ALL_LANES, scalar, 4);
  const Coefficients<A> coefficients = gradient_coefficients(row_sums, by_loss, by_purity, in.exact);
  const A for_positive = coefficients.constant + coefficients.slope;

  P* const row_gradient = grad_prediction + row * in.columns;
  visit_row<P, T>(in, row, row_gradient, [&](int64_t column, const auto& elements) {
    constexpr int count = std::remove_reference_t<decltype(elements)>::count;
    Pack<P, count> gradient;
#pragma unroll
    for (int i = 0; i < count; ++i) {
      const A value = (elements.positive[i] ? for_positive : coefficients.constant) * elements.prediction[i].derivative;
      narrow(elements.valid[i] ? value : A(0), gradient.values[i]);
    }
    if constexpr (count > 1) {
      simt::store_pack(row_gradient + column, gradient);
    } else {
      row_gradient[column] = gradient.values[0];
    }
  });
}

// The sum over a block, in every thread.
template <typename A>
__device__ __forceinline__ A block_sum(A value, A* partial) {
  value = warp_sum(value);
  __syncthreads();  // the last sum has been read
  if (threadIdx.x % WARP_SIZE == 0) partial[threadIdx.x / WARP_SIZE] = value;
  __syncthreads();
  A total = A(0);
  for (int warp = 0; warp < int(blockDim.x) / WARP_SIZE; ++warp) total += partial[warp];
  return total;
}

// gamma_f is the mean purity, the fairness loss the mean of |purity - gamma_f|. In double: a batch has few numbers.
template <typename A>
__global__ void __launch_bounds__(MEANS_THREADS)
    means_kernel(const A* loss, const A* purity, const uint8_t* counted, int64_t rows, A* means) {
  SIMT_SHARED_ARRAY(double, partial, MEANS_THREADS / WARP_SIZE);
  double loss_sum = 0, purity_sum = 0, count = 0;
  for (int64_t row = threadIdx.x; row < rows; row += blockDim.x) {
    if (counted && !counted[row]) continue;
    loss_sum += loss[row];
    purity_sum += purity[row];
    count += 1;
  }
  count = block_sum(count, partial);
  const double divisor = count > 0 ? count : 1;
  const double mean_loss = block_sum(loss_sum, partial) / divisor;
  const double point = block_sum(purity_sum, partial) / divisor;
  double distance_sum = 0, sign_sum = 0;
  for (int64_t row = threadIdx.x; row < rows; row += blockDim.x) {
    if (counted && !counted[row]) continue;
    const double difference = double(purity[row]) - point;
    distance_sum += fabs(difference);
    sign_sum += (difference > 0) - (difference < 0);
  }
  const double fairness = block_sum(distance_sum, partial) / divisor;
  const double mean_sign = block_sum(sign_sum, partial) / divisor;
  if (threadIdx.x == 0) {
    means[MEAN_LOSS] = A(mean_loss);
    means[MEAN_PURITY] = A(point);
    means[FAIRNESS] = A(fairness);
    means[COUNTED] = A(count);
    means[MEAN_SIGN] = A(mean_sign);
  }
}

// `grad` weights the means of loss, purity and fairness. With `detach_point` gamma_f is a constant to the fairness loss.
template <typename A>
__global__ void __launch_bounds__(ROW_THREADS) means_backward_kernel(
    Vector<A> grad,
    const A* purity,
    const uint8_t* counted,
    int64_t rows,
    const A* means,
    bool detach_point,
    A* grad_loss,
    A* grad_purity) {
  const int64_t row = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (row >= rows) return;
  const bool counts = !counted || counted[row];
  const A count = means[COUNTED];
  const A share = counts ? A(1) / (count > A(0) ? count : A(1)) : A(0);
  const A difference = purity[row] - means[MEAN_PURITY];
  const A sign = A((difference > A(0)) - (difference < A(0))) - (detach_point ? A(0) : means[MEAN_SIGN]);
  grad_loss[row] = grad.data[MEAN_LOSS * grad.stride] * share;
  grad_purity[row] = counts ? (grad.data[MEAN_PURITY * grad.stride] + grad.data[FAIRNESS * grad.stride] * sign) * share : A(0);
}

// The block of forward and backward: as many rows side by side as it has room for.
inline dim3 row_block(int64_t columns) {
  const unsigned threads = threads_per_row(columns);
  return dim3(threads, ROW_THREADS / threads);
}

inline dim3 grid_of(int64_t items, int64_t items_per_block) {
  return dim3(unsigned((items + items_per_block - 1) / items_per_block));
}

template <typename P, typename T>
void launch_forward(const Inputs<P, T>& in, const Outputs<Accumulator<P>>& out, cudaStream_t stream) {
  if (in.rows == 0) return;
  const dim3 block = row_block(in.columns);
  simt::launch_kernel(forward_kernel<P, T>, grid_of(in.rows, block.y), block, stream, in, out);
}

template <typename P, typename T>
void launch_backward(
    const Inputs<P, T>& in,
    const Accumulator<P>* sums,
    Vector<Accumulator<P>> grad_loss,
    Vector<Accumulator<P>> grad_purity,
    P* grad_prediction,
    cudaStream_t stream) {
  if (in.rows == 0 || in.columns == 0) return;
  const dim3 block = row_block(in.columns);
  simt::launch_kernel(
      backward_kernel<P, T>, grid_of(in.rows, block.y), block, stream, in, sums, grad_loss, grad_purity, grad_prediction);
}

template <typename A>
void launch_means(const A* loss, const A* purity, const uint8_t* counted, int64_t rows, A* means, cudaStream_t stream) {
  simt::launch_kernel(means_kernel<A>, dim3(1), dim3(MEANS_THREADS), stream, loss, purity, counted, rows, means);
}

template <typename A>
void launch_means_backward(
    Vector<A> grad,
    const A* purity,
    const uint8_t* counted,
    int64_t rows,
    const A* means,
    bool detach_point,
    A* grad_loss,
    A* grad_purity,
    cudaStream_t stream) {
  if (rows == 0) return;
  simt::launch_kernel(
      means_backward_kernel<A>, grid_of(rows, ROW_THREADS), dim3(ROW_THREADS), stream, grad, purity, counted, rows, means,
      detach_point, grad_loss, grad_purity);
}

}  // namespace intraformer::purity_fmi
