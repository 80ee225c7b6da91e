// TP 2, FP 1, FN 1: loss 2/6, purity 2/3. And a target that is neither 0 nor 1 is refused.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <cmath>
#include <cstdio>
#include <optional>

namespace boxed = torch::stable::detail;
using torch::stable::Tensor;

int main() {
  const Tensor prediction = torch::stable::empty({1, 5}, torch::headeronly::ScalarType::Float);
  const Tensor target = torch::stable::empty({1, 5}, torch::headeronly::ScalarType::Float);
  const float q[5] = {1, 1, 1, 0, 0}, y[5] = {1, 1, 0, 1, 0};
  for (int j = 0; j < 5; ++j) {
    static_cast<float*>(prediction.mutable_data_ptr())[j] = q[j];
    static_cast<float*>(target.mutable_data_ptr())[j] = y[j];
  }
  const auto call = [&](std::array<StableIValue, 5>& stack) {
    stack = {
        boxed::from(prediction), boxed::from(target), boxed::from(std::optional<Tensor>()), boxed::from(false),
        boxed::from(false)};
    return torch_call_dispatcher("intraformer_fast::purity_fmi_forward", "", stack.data(), TORCH_ABI_VERSION);
  };
  std::array<StableIValue, 5> stack;
  if (call(stack) != 0) return 1;
  const Tensor loss = boxed::to<Tensor>(stack[0]), purity = boxed::to<Tensor>(stack[1]), sums = boxed::to<Tensor>(stack[2]);
  const float l = *static_cast<const float*>(loss.const_data_ptr()), p = *static_cast<const float*>(purity.const_data_ptr());
  std::printf("loss %g, purity %g\n", l, p);
  if (std::fabs(l - 2.0f / 6) > 1e-6f || std::fabs(p - 2.0f / 3) > 1e-6f || sums.size(1) != 3) return 1;
  static_cast<float*>(target.mutable_data_ptr())[2] = 0.5f;
  return call(stack) == 0 ? 1 : 0;
}
