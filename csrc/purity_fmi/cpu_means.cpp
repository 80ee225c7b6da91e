// The CPU operators that finish a batch (op.h): a few numbers a cluster, so plain loops in double on one thread.
#include <torch/csrc/stable/library.h>

#include <cmath>
#include <optional>
#include <tuple>

#include "cpu/tensors.h"
#include "purity_fmi/op.h"

namespace intraformer::purity_fmi {
namespace {

constexpr Check check{"purity_fmi_means"};

bool is_row_vector(const Tensor& t, int64_t rows, ScalarType type) {
  return t.dim() == 1 && t.size(0) == rows && t.scalar_type() == type && t.is_contiguous() && t.is_cpu();
}

struct Batch {
  const Tensor& purity;
  const std::optional<Tensor>& counted;
  int64_t rows;

  Batch(const Tensor& purities, const std::optional<Tensor>& counts) : purity(purities), counted(counts), rows(0) {
    const ScalarType type = purity.scalar_type();
    check(
        (type == ScalarType::Float || type == ScalarType::Double) && purity.dim() == 1 &&
            is_row_vector(purity, purity.size(0), type),
        "purity is not a contiguous float32 or float64 [B] on the CPU");
    rows = purity.size(0);
    check(!counted || is_row_vector(*counted, rows, ScalarType::Bool), "counted is not a contiguous bool[B] on the CPU");
  }

  bool counts(int64_t row) const { return !counted || static_cast<const bool*>(counted->const_data_ptr())[row]; }

  // Calls visit with a zero of the element type.
  template <typename Visit>
  void with_type(const Visit& visit) const {
    purity.scalar_type() == ScalarType::Double ? visit(double()) : visit(float());
  }
};

template <typename A>
const A* data(const Tensor& t) {
  return static_cast<const A*>(t.const_data_ptr());
}

int sign(double x) { return (x > 0) - (x < 0); }

Tensor means(const Tensor& loss, const Tensor& purity, const std::optional<Tensor>& counted, bool /* for the gradient */) {
  const Batch batch(purity, counted);
  check(is_row_vector(loss, batch.rows, purity.scalar_type()), "loss is not a contiguous [B] on the CPU in the dtype of purity");
  const Tensor result = new_empty(purity, {MEANS});
  batch.with_type([&](auto zero) {
    using A = decltype(zero);
    const A *losses = data<A>(loss), *purities = data<A>(purity);
    double loss_sum = 0, purity_sum = 0, count = 0, distance_sum = 0, sign_sum = 0;
    for (int64_t row = 0; row < batch.rows; ++row) {
      if (!batch.counts(row)) continue;
      loss_sum += losses[row];
      purity_sum += purities[row];
      count += 1;
    }
    const double divisor = count > 0 ? count : 1, point = purity_sum / divisor;
    for (int64_t row = 0; row < batch.rows; ++row) {
      if (!batch.counts(row)) continue;
      distance_sum += std::fabs(purities[row] - point);
      sign_sum += sign(purities[row] - point);
    }
    A* const out = static_cast<A*>(result.mutable_data_ptr());
    out[MEAN_LOSS] = A(loss_sum / divisor);
    out[MEAN_PURITY] = A(point);
    out[FAIRNESS] = A(distance_sum / divisor);
    out[COUNTED] = A(count);
    out[MEAN_SIGN] = A(sign_sum / divisor);
  });
  return result;
}

std::tuple<Tensor, Tensor> means_backward(
    const Tensor& grad, const Tensor& purity, const std::optional<Tensor>& counted, const Tensor& means, bool detach_point) {
  const Batch batch(purity, counted);
  check(is_row_vector(means, MEANS, purity.scalar_type()), "means is not what the forward pass gave");
  check(
      grad.dim() == 1 && grad.size(0) == MEANS && grad.scalar_type() == purity.scalar_type() && grad.is_cpu(),
      "grad is not [5] on the CPU in the dtype of purity");
  const Tensor grad_loss = new_empty(purity, {batch.rows}), grad_purity = new_empty(purity, {batch.rows});
  batch.with_type([&](auto zero) {
    using A = decltype(zero);
    const A *purities = data<A>(purity), *saved = data<A>(means);
    const auto weight = [&](Mean mean) { return double(data<A>(grad)[mean * grad.stride(0)]); };
    const double share = 1 / (saved[COUNTED] > 0 ? double(saved[COUNTED]) : 1);
    const double through_point = detach_point ? 0 : saved[MEAN_SIGN];
    for (int64_t row = 0; row < batch.rows; ++row) {
      const double counts = batch.counts(row) ? share : 0;
      const double slope = sign(double(purities[row]) - saved[MEAN_PURITY]) - through_point;
      static_cast<A*>(grad_loss.mutable_data_ptr())[row] = A(counts * weight(MEAN_LOSS));
      static_cast<A*>(grad_purity.mutable_data_ptr())[row] = A(counts * (weight(MEAN_PURITY) + weight(FAIRNESS) * slope));
    }
  });
  return {grad_loss, grad_purity};
}

}  // namespace
}  // namespace intraformer::purity_fmi

STABLE_TORCH_LIBRARY_IMPL(intraformer_fast, CPU, library) {
  library.impl("purity_fmi_means", TORCH_BOX(&intraformer::purity_fmi::means));
  library.impl("purity_fmi_means_backward", TORCH_BOX(&intraformer::purity_fmi::means_backward));
}
