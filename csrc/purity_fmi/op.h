// purity_fmi: Fowlkes-Mallows loss and purity of each cluster, one pass forward and one backward.
//
// Operators (schemas in csrc/library.cpp; B clusters of n neighbours):
//
//   purity_fmi_forward(Tensor prediction, Tensor target, Tensor? valid, bool from_logits, bool exact)
//       -> (Tensor loss, Tensor purity, Tensor sums)
//   purity_fmi_backward(Tensor grad_loss, Tensor grad_purity, Tensor sums, Tensor prediction, Tensor target,
//                       Tensor? valid, bool from_logits, bool exact) -> Tensor grad_prediction
//
//   prediction       [B, n]  float32, bfloat16, float16 or float64; logits with from_logits, else probabilities; any strides
//   target           [B, n]  bool, uint8, int64 or any of the four floating dtypes; any strides (0 included)
//   valid            [B, n]  bool, false at padding, or none; any strides
//   loss, purity     [B]     of the accumulation type: double for float64 predictions, else float; contiguous
//   sums             [B, 3]  (TP, P, T) of each row, of the accumulation type; contiguous; all that the backward pass keeps
//   grad_loss/purity [B]     of the accumulation type; any stride, 0 included (an expanded gradient)
//   grad_prediction  [B, n]  in the dtype of prediction; contiguous; every element is written
//
// With q the probabilities and y the targets, over the valid neighbours of a row:
//
//   TP = sum q y      P = sum q      T = sum y
//   dice:  loss = (P + T - 2 TP) / (P + T)          exact:  loss = 1 - TP / sqrt(P T)          purity = TP / P
//   grad_prediction_j = (a + b y_j) * (from_logits ? q_j (1 - q_j) : 1), with (a, b) from `gradient_coefficients`
//
// Edges. A denominator of 0 gives the values of `row_loss` and `row_purity`, with gradient 0. At padding prediction and target
// may hold anything (NaN included), are never part of a result, and grad_prediction is 0. A NaN prediction makes the loss, the
// purity and the whole valid gradient of its own row NaN, and changes no other row. A valid target other than 0 and 1 is an
// error: on the CPU the operators raise; on a device, where the host would have to wait, T of that row is NaN, which makes its
// loss, purity and gradient NaN. B = 0 gives empty results; n = 0 gives loss 0 and purity 0.
// A batch is finished, without the host waiting for a device, by
//
//   purity_fmi_means(Tensor loss, Tensor purity, Tensor? counted, bool detach_point) -> Tensor means
//   purity_fmi_means_backward(Tensor grad, Tensor purity, Tensor? counted, Tensor means, bool detach_point)
//       -> (Tensor grad_loss, Tensor grad_purity)
//
//   loss, purity     [B]     float32 or float64, both the same; contiguous
//   counted          bool[B] contiguous, or none: every row counts
//   means            [5]     in that type, over the counted rows, in the order of `Mean`; all 0 where no row counts
//   grad             [5]     of the means, the first three of which have a gradient; any stride
//   detach_point             whether gamma_f inside the fairness loss is a constant to the gradient
//
// Offsets that multiply a row index are 64-bit. Results do not depend on the number of threads.
//
// The functions are static: each translation unit is compiled for its own instruction set, and the linker must never pick one
// unit's copy (say AVX-512) for another.
#pragma once

#include <cmath>

#ifdef __CUDACC__
#define INTRAFORMER_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define INTRAFORMER_HOST_DEVICE inline
#endif

namespace intraformer::purity_fmi {

// The sums over the valid neighbours of one row.
template <typename A>
struct RowSums {
  A true_positive;  // TP
  A predicted;      // P
  A actual;         // T
};

// grad_prediction_j = (constant + slope * y_j), before the sigmoid's own derivative.
template <typename A>
struct Coefficients {
  A constant;  // a
  A slope;     // b
};

// A probability and its derivative by the logit.
template <typename A>
struct Probability {
  A value;       // q
  A derivative;  // q (1 - q)
};

// gamma_f is MEAN_PURITY, FAIRNESS the mean of |purity - gamma_f|, MEAN_SIGN that of sign(purity - gamma_f).
enum Mean { MEAN_LOSS, MEAN_PURITY, FAIRNESS, COUNTED, MEAN_SIGN, MEANS };

INTRAFORMER_HOST_DEVICE static float exponential(float x) { return expf(x); }
INTRAFORMER_HOST_DEVICE static double exponential(double x) { return exp(x); }
INTRAFORMER_HOST_DEVICE static float square_root(float x) { return sqrtf(x); }
INTRAFORMER_HOST_DEVICE static double square_root(double x) { return sqrt(x); }

// Through exp(-|z|), which neither overflows nor cancels: 1 - q keeps its digits where q rounds to 1.
template <typename A>
INTRAFORMER_HOST_DEVICE static Probability<A> probability_from_logit(A z) {
  const A decay = exponential(z < A(0) ? z : -z);  // NaN takes the second branch and stays NaN
  const A reciprocal = A(1) / (A(1) + decay);
  return {z < A(0) ? decay * reciprocal : reciprocal, decay * reciprocal * reciprocal};
}

// The comparisons with 0 are true of NaN, which has to come through.
template <typename A>
INTRAFORMER_HOST_DEVICE static A row_loss(RowSums<A> s, bool exact) {
  if (exact) {
    const A product = s.predicted * s.actual;
    // Without a predicted or without an actual positive TP is 0: nothing matches (1), unless there is nothing to match (0).
    return product != A(0) ? A(1) - s.true_positive / square_root(product) : A(s.predicted + s.actual > A(0) ? 1 : 0);
  }
  const A both = s.predicted + s.actual;
  return both != A(0) ? (both - A(2) * s.true_positive) / both : A(0);
}

// A target that spoils T spoils the purity too, so that a bad row cannot go unseen.
template <typename A>
INTRAFORMER_HOST_DEVICE static A row_purity(RowSums<A> s) {
  if (s.actual != s.actual) return s.actual;
  return s.predicted != A(0) ? s.true_positive / s.predicted : A(0);
}

// d loss / d q_j = d_predicted + y_j d_true_positive, and the same of the purity, each weighted by its incoming gradient.
template <typename A>
INTRAFORMER_HOST_DEVICE static Coefficients<A> gradient_coefficients(RowSums<A> s, A grad_loss, A grad_purity, bool exact) {
  A loss_by_tp = A(0), loss_by_p = A(0), purity_by_tp = A(0), purity_by_p = A(0);
  if (exact) {
    const A product = s.predicted * s.actual;
    if (product != A(0)) {
      loss_by_tp = A(-1) / square_root(product);
      loss_by_p = A(-0.5) * loss_by_tp * (s.true_positive / s.predicted);
    }
  } else {
    const A both = s.predicted + s.actual;
    if (both != A(0)) {
      loss_by_tp = A(-2) / both;
      loss_by_p = -loss_by_tp * (s.true_positive / both);
    }
  }
  if (s.actual != s.actual) {
    purity_by_tp = s.actual;
  } else if (s.predicted != A(0)) {
    purity_by_tp = A(1) / s.predicted;
    purity_by_p = -purity_by_tp * (s.true_positive / s.predicted);
  }
  return {grad_loss * loss_by_p + grad_purity * purity_by_p, grad_loss * loss_by_tp + grad_purity * purity_by_tp};
}

}  // namespace intraformer::purity_fmi
