// The CUDA operators of purity_fmi: torch tensors in and out, one kernel each on the current stream; nothing waits for the
// device.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>

#include "kernels.cuh"

namespace intraformer::purity_fmi {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using torch::stable::accelerator::DeviceGuard;

// std::invalid_argument reaches Python as ValueError.
void check(bool good, const char* message) {
  if (!good) throw std::invalid_argument(std::string("purity_fmi: ") + message);
}

cudaStream_t current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

// Calls visit with a value of the element type.
template <typename Visit>
void with_prediction_type(ScalarType type, const Visit& visit) {
  switch (type) {
    case ScalarType::Float: return visit(float());
    case ScalarType::Double: return visit(double());
    case ScalarType::Half: return visit(__half());
    case ScalarType::BFloat16: return visit(__nv_bfloat16());
    default: check(false, "prediction is not float32, bfloat16, float16 or float64");
  }
}

template <typename Visit>
void with_target_type(ScalarType type, const Visit& visit) {
  switch (type) {
    case ScalarType::Bool:
    case ScalarType::Byte: return visit(uint8_t());
    case ScalarType::Long: return visit(int64_t());
    case ScalarType::Float: return visit(float());
    case ScalarType::Double: return visit(double());
    case ScalarType::Half: return visit(__half());
    case ScalarType::BFloat16: return visit(__nv_bfloat16());
    default: check(false, "target is not bool, uint8, int64, float32, bfloat16, float16 or float64");
  }
}

ScalarType accumulator_of(const Tensor& prediction) {
  return prediction.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

bool same_device(const Tensor& one, const Tensor& other) {
  return other.is_cuda() && one.get_device_index() == other.get_device_index();
}

void check_inputs(const Tensor& prediction, const Tensor& target, const std::optional<Tensor>& valid) {
  check(prediction.dim() == 2, "prediction is not [B, n]");
  check(prediction.size(0) <= INT32_MAX, "prediction has more than 2^31 - 1 rows: give it in parts");  // CUDA's largest grid
  const auto matches = [&](const Tensor& t) {
    return t.dim() == 2 && t.size(0) == prediction.size(0) && t.size(1) == prediction.size(1) && same_device(prediction, t);
  };
  check(matches(target), "target is not [B, n] on the device of prediction");
  check(!valid || matches(*valid), "valid is not [B, n] on the device of prediction");
  check(!valid || valid->scalar_type() == ScalarType::Bool, "valid is not bool");
}

template <typename T>
Matrix<T> matrix(const Tensor& t) {
  return {static_cast<const T*>(t.const_data_ptr()), t.stride(0), t.stride(1)};
}

template <typename T>
Vector<T> vector(const Tensor& t) {
  return {static_cast<const T*>(t.const_data_ptr()), t.stride(0)};
}

template <typename T>
T* pointer(const Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

template <typename P, typename T>
Inputs<P, T> inputs(
    const Tensor& prediction, const Tensor& target, const std::optional<Tensor>& valid, bool from_logits, bool exact) {
  return {
      matrix<P>(prediction),
      matrix<T>(target),
      valid ? matrix<uint8_t>(*valid) : Matrix<uint8_t>{},
      prediction.size(0),
      prediction.size(1),
      from_logits,
      exact};
}

std::tuple<Tensor, Tensor, Tensor> forward(
    const Tensor& prediction, const Tensor& target, const std::optional<Tensor>& valid, bool from_logits, bool exact) {
  check_inputs(prediction, target, valid);
  const DeviceGuard guard(prediction.get_device_index());
  const int64_t rows = prediction.size(0);
  const ScalarType accumulator = accumulator_of(prediction);
  const Tensor loss = new_empty(prediction, {rows}, accumulator);
  const Tensor purity = new_empty(prediction, {rows}, accumulator);
  const Tensor sums = new_empty(prediction, {rows, 3}, accumulator);
  with_prediction_type(prediction.scalar_type(), [&](auto p) {
    with_target_type(target.scalar_type(), [&](auto t) {
      using A = Accumulator<decltype(p)>;
      launch_forward(
          inputs<decltype(p), decltype(t)>(prediction, target, valid, from_logits, exact),
          {pointer<A>(loss), pointer<A>(purity), pointer<A>(sums)}, current_stream(prediction));
    });
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
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
  check_inputs(prediction, target, valid);
  const DeviceGuard guard(prediction.get_device_index());
  const int64_t rows = prediction.size(0);
  const ScalarType accumulator = accumulator_of(prediction);
  for (const Tensor* t : {&grad_loss, &grad_purity}) {
    check(
        t->dim() == 1 && t->size(0) == rows && t->scalar_type() == accumulator && same_device(prediction, *t),
        "a gradient is not [B] on the device of prediction in the dtype of the loss");
  }
  check(
      sums.dim() == 2 && sums.size(0) == rows && sums.size(1) == 3 && sums.scalar_type() == accumulator && sums.is_contiguous() &&
          same_device(prediction, sums),
      "sums is not the contiguous [B, 3] of the forward pass");
  const Tensor grad_prediction = new_empty(prediction, {rows, prediction.size(1)});
  with_prediction_type(prediction.scalar_type(), [&](auto p) {
    with_target_type(target.scalar_type(), [&](auto t) {
      using P = decltype(p);
      using A = Accumulator<P>;
      launch_backward(
          inputs<P, decltype(t)>(prediction, target, valid, from_logits, exact), static_cast<const A*>(sums.const_data_ptr()),
          vector<A>(grad_loss), vector<A>(grad_purity), pointer<P>(grad_prediction), current_stream(prediction));
    });
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return grad_prediction;
}

// Calls visit with the batch as pointers of its element type: visit(loss or null, purity, counted or null).
template <typename Visit>
void with_batch(const Tensor* loss, const Tensor& purity, const std::optional<Tensor>& counted, const Visit& visit) {
  const auto matches = [&](const Tensor& t) {
    return t.dim() == 1 && t.size(0) == purity.size(0) && t.is_contiguous() && same_device(purity, t);
  };
  check(purity.dim() == 1 && purity.is_contiguous(), "purity is not a contiguous [B]");
  check(
      !loss || (matches(*loss) && loss->scalar_type() == purity.scalar_type()),
      "loss is not a contiguous [B] on the device and in the dtype of purity");
  check(
      !counted || (matches(*counted) && counted->scalar_type() == ScalarType::Bool),
      "counted is not a contiguous bool[B] on the device of purity");
  const auto* const counts = counted ? static_cast<const uint8_t*>(counted->const_data_ptr()) : nullptr;
  const auto call = [&](auto zero) {
    using A = decltype(zero);
    visit(loss ? static_cast<const A*>(loss->const_data_ptr()) : nullptr, static_cast<const A*>(purity.const_data_ptr()), counts);
  };
  switch (purity.scalar_type()) {
    case ScalarType::Float: return call(float());
    case ScalarType::Double: return call(double());
    default: check(false, "purity is not float32 or float64");
  }
}

Tensor means(const Tensor& loss, const Tensor& purity, const std::optional<Tensor>& counted, bool /* for the gradient */) {
  const DeviceGuard guard(purity.get_device_index());
  const Tensor result = new_empty(purity, {MEANS});
  with_batch(&loss, purity, counted, [&](const auto* losses, const auto* purities, const uint8_t* counts) {
    using A = std::remove_const_t<std::remove_pointer_t<decltype(purities)>>;
    launch_means(losses, purities, counts, purity.size(0), pointer<A>(result), current_stream(purity));
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return result;
}

std::tuple<Tensor, Tensor> means_backward(
    const Tensor& grad, const Tensor& purity, const std::optional<Tensor>& counted, const Tensor& means, bool detach_point) {
  const DeviceGuard guard(purity.get_device_index());
  check(
      grad.dim() == 1 && grad.size(0) >= 3 && grad.scalar_type() == purity.scalar_type() && same_device(purity, grad),
      "the gradient of the means is not [3] or longer on the device and in the dtype of purity");
  check(
      means.dim() == 1 && means.size(0) == MEANS && means.scalar_type() == purity.scalar_type() && means.is_contiguous() &&
          same_device(purity, means),
      "means is not what the forward pass gave");
  const Tensor grad_loss = new_empty(purity, {purity.size(0)});
  const Tensor grad_purity = new_empty(purity, {purity.size(0)});
  with_batch(nullptr, purity, counted, [&](const auto*, const auto* purities, const uint8_t* counts) {
    using A = std::remove_const_t<std::remove_pointer_t<decltype(purities)>>;
    launch_means_backward(
        vector<A>(grad), purities, counts, purity.size(0), static_cast<const A*>(means.const_data_ptr()), detach_point,
        pointer<A>(grad_loss), pointer<A>(grad_purity), current_stream(purity));
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {grad_loss, grad_purity};
}

}  // namespace
}  // namespace intraformer::purity_fmi

STABLE_TORCH_LIBRARY_IMPL(intraformer_fast, CUDA, library) {
  library.impl("purity_fmi_forward", TORCH_BOX(&intraformer::purity_fmi::forward));
  library.impl("purity_fmi_backward", TORCH_BOX(&intraformer::purity_fmi::backward));
  library.impl("purity_fmi_means", TORCH_BOX(&intraformer::purity_fmi::means));
  library.impl("purity_fmi_means_backward", TORCH_BOX(&intraformer::purity_fmi::means_backward));
}
