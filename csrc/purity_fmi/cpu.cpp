// The CPU operators of purity_fmi: torch tensors in and out, the rows shared out over PyTorch's threads.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>

#include "cpu/tensors.h"
#include "purity_fmi/cpu_rows.h"

namespace intraformer::purity_fmi {
namespace {

constexpr Check check{"purity_fmi"};

// Elements a thread takes at least: below this the hand-over costs more than the work.
constexpr int64_t GRAIN = 16384;

Element checked_element(const Tensor& t, const char* message) {
  const std::optional<Element> element = element_of(t);
  check(element.has_value(), message);
  return *element;
}

Matrix matrix(const Tensor& t, Element element) { return {t.const_data_ptr(), t.stride(0), t.stride(1), element}; }

Inputs inputs(const Tensor& prediction, const Tensor& target, const std::optional<Tensor>& valid, bool from_logits, bool exact) {
  check(prediction.dim() == 2, "prediction is not [B, n]");
  const int64_t rows = prediction.size(0), columns = prediction.size(1);
  const auto same_shape = [&](const Tensor& t) {
    return t.dim() == 2 && t.size(0) == rows && t.size(1) == columns && t.is_cpu();
  };
  check(same_shape(target), "target is not [B, n] on the CPU as prediction is");
  const Element kind = checked_element(prediction, "prediction is not float32, bfloat16, float16 or float64");
  check(kind != Element::byte && kind != Element::int64, "prediction is not float32, bfloat16, float16 or float64");
  Inputs in{
      matrix(prediction, kind),
      matrix(target, checked_element(target, "target is not bool, uint8, int64, float32, bfloat16, float16 or float64")),
      {nullptr, 0, 0, Element::byte},
      columns,
      from_logits,
      exact};
  if (valid.has_value()) {
    check(same_shape(*valid), "valid is not [B, n] on the CPU as prediction is");
    check(valid->scalar_type() == ScalarType::Bool, "valid is not bool");
    in.valid = matrix(*valid, Element::byte);
  }
  return in;
}

ScalarType accumulator_of(const Tensor& prediction) {
  return prediction.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

int64_t rows_a_thread(int64_t columns) { return std::max<int64_t>(1, GRAIN / std::max<int64_t>(1, columns)); }

std::tuple<Tensor, Tensor, Tensor> forward(
    const Tensor& prediction, const Tensor& target, const std::optional<Tensor>& valid, bool from_logits, bool exact) {
  const Inputs in = inputs(prediction, target, valid, from_logits, exact);
  const int64_t rows = prediction.size(0);
  const ScalarType accumulator = accumulator_of(prediction);
  const Tensor loss = new_empty(prediction, {rows}, accumulator);
  const Tensor purity = new_empty(prediction, {rows}, accumulator);
  const Tensor sums = new_empty(prediction, {rows, 3}, accumulator);
  const ForwardOutputs out{loss.mutable_data_ptr(), purity.mutable_data_ptr(), sums.mutable_data_ptr()};
  const RowLoops& loops = rows_loops();
  std::atomic<int64_t> first_bad{NO_ROW};
  torch::stable::parallel_for(0, rows, rows_a_thread(in.columns), [&](int64_t begin, int64_t end) {
    const int64_t bad = loops.forward(in, out, begin, end);
    int64_t known = first_bad.load();
    while (bad < known && !first_bad.compare_exchange_weak(known, bad)) {
    }
  });
  if (const int64_t row = first_bad.load(); row != NO_ROW) {
    throw std::invalid_argument(
        "target holds a value other than 0 and 1 in row " + std::to_string(row) +
        ": expected 1 where a neighbor has the centroid's identity, else 0");
  }
  return {loss, purity, sums};
}

Tensor backward(
    const Tensor& grad_loss,
    const Tensor& grad_purity,
    const Tensor& sums,
    const Tensor& prediction,
    const Tensor& target,
    const std::optional<Tensor>& valid,
    bool from_logits,
    bool exact) {
  const Inputs in = inputs(prediction, target, valid, from_logits, exact);
  const int64_t rows = prediction.size(0);
  const ScalarType accumulator = accumulator_of(prediction);
  for (const Tensor* t : {&grad_loss, &grad_purity}) {
    check(
        t->dim() == 1 && t->size(0) == rows && t->scalar_type() == accumulator && t->is_cpu(),
        "a gradient is not [B] on the CPU in the dtype of the loss");
  }
  check(
      sums.dim() == 2 && sums.size(0) == rows && sums.size(1) == 3 && sums.scalar_type() == accumulator && sums.is_contiguous() &&
          sums.is_cpu(),
      "sums is not the contiguous [B, 3] of the forward pass");
  const Tensor grad_prediction = new_empty(prediction, {rows, in.columns});
  const Gradients grad{grad_loss.const_data_ptr(), grad_loss.stride(0),   grad_purity.const_data_ptr(),
                       grad_purity.stride(0),      sums.const_data_ptr(), grad_prediction.mutable_data_ptr()};
  const RowLoops& loops = rows_loops();
  torch::stable::parallel_for(
      0, rows, rows_a_thread(in.columns), [&](int64_t begin, int64_t end) { loops.backward(in, grad, begin, end); });
  return grad_prediction;
}

}  // namespace
}  // namespace intraformer::purity_fmi

STABLE_TORCH_LIBRARY_IMPL(intraformer_fast, CPU, library) {
  library.impl("purity_fmi_forward", TORCH_BOX(&intraformer::purity_fmi::forward));
  library.impl("purity_fmi_backward", TORCH_BOX(&intraformer::purity_fmi::backward));
}
