// The schemas of the operators in namespace `intraformer_fast`. Each room registers its kernels for them; Python adds what
// torch needs for shapes and gradients (intraformer_fast/ops/).
#include <torch/csrc/stable/library.h>

#include <string>

#include "cpu/instruction_set.h"

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
  library.def("encoder_block_pack(Tensor[] parameters, int num_heads, bool bfloat16) -> Tensor");
  library.def("encoder_block_fingerprint(Tensor[] parameters) -> int");
  library.def(
      "encoder_block(Tensor tokens, Tensor? valid, Tensor[] packed, int num_heads, int hidden_width, bool bfloat16,"
      " bool anchor_asks, float epsilon) -> Tensor");
  library.def("cpu_instruction_set() -> str");
}

namespace {

std::string cpu_instruction_set() { return intraformer::name(intraformer::instruction_set()); }

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(intraformer_fast, CompositeExplicitAutograd, library) {
  library.impl("cpu_instruction_set", TORCH_BOX(&cpu_instruction_set));
}
