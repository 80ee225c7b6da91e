// The schemas of the operators in namespace `intraformer_fast`. Each room registers its kernels for them; Python adds what
// torch needs for shapes and gradients (intraformer_fast/ops/).
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <string>

#include "cpu/instruction_set.h"
#include "cpu/peak.h"

STABLE_TORCH_LIBRARY(intraformer_fast, library) {
  library.def(
      "purity_fmi_forward(Tensor prediction, Tensor target, Tensor? valid, bool from_logits, bool exact)"
      " -> (Tensor loss, Tensor purity, Tensor sums)");
  library.def(
      "purity_fmi_backward(Tensor grad_loss, Tensor grad_purity, Tensor sums, Tensor prediction, Tensor target,"
      " Tensor? valid, bool from_logits, bool exact) -> Tensor");
  library.def("purity_fmi_means(Tensor loss, Tensor purity, Tensor? counted, bool detach_point) -> Tensor");
  library.def(
      "purity_fmi_means_backward(Tensor grad, Tensor purity, Tensor? counted, Tensor means, bool detach_point)"
      " -> (Tensor grad_loss, Tensor grad_purity)");
  library.def("encoder_block_pack(Tensor[] parameters, int num_heads, str compute) -> Tensor");
  library.def("encoder_block_fingerprint(Tensor[] parameters) -> int");
  library.def(
      "encoder_block(Tensor tokens, Tensor? valid, Tensor[] packed, int num_heads, int hidden_width, str compute,"
      " bool anchor_asks, float epsilon, bool post_norm=False, bool relu=False, bool padding_asks=False) -> Tensor");
  library.def(
      "stream_linear(Tensor input, Tensor? residual, Tensor[] weights, Tensor[] biases, Tensor[] norm_weights,"
      " Tensor[] norm_biases, bool gelu, float epsilon, bool bfloat16) -> (Tensor output, Tensor moments)");
  library.def(
      "stream_linear_backward(Tensor grad, Tensor input, Tensor moments, Tensor[] weights, Tensor[] norm_weights,"
      " Tensor[] norm_biases, bool gelu, bool bfloat16) -> (Tensor grad_input, Tensor grad_weights, Tensor grad_biases,"
      " Tensor grad_norm_weights, Tensor grad_norm_biases)");
  library.def("intimacy_components(Tensor starts, Tensor targets, float threshold) -> Tensor");
  library.def("edge_components(Tensor starts, Tensor targets, bool mutual) -> Tensor");
  library.def(
      "list_search(Tensor rows, Tensor starts, Tensor queries, Tensor probes, int count) -> (Tensor places, Tensor scores)");
  library.def("best_cosines(Tensor rows, Tensor inverse_norm, Tensor queries, Tensor candidates, int count) -> Tensor");
  library.def("cpu_instruction_set() -> str");
  // Keeps each of torch's threads multiplying in registers for so many steps; the floating-point operations of all of them.
  library.def("cpu_peak(int steps, bool bfloat16) -> int");
}

namespace {

std::string cpu_instruction_set() { return intraformer::name(intraformer::instruction_set()); }

int64_t cpu_peak(int64_t steps, bool bfloat16) {
  const intraformer::PeakLoops& loops = intraformer::peak_loops();
  const int64_t threads = torch::stable::get_num_threads();
  torch::stable::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      volatile float sum = loops.multiply(steps, bfloat16);
      (void)sum;
    }
  });
  return threads * steps * loops.flops_a_step(bfloat16);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(intraformer_fast, CompositeExplicitAutograd, library) {
  library.impl("cpu_peak", TORCH_BOX(&cpu_peak));
  library.impl("cpu_instruction_set", TORCH_BOX(&cpu_instruction_set));
}
