// The CPU operators of correlation_attention: torch tensors in and out, tasks shared out over PyTorch's threads.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "correlation_attention/cpu_streams.h"
#include "correlation_attention/op.h"
#include "cpu/tensors.h"

namespace intraformer::correlation_attention {
namespace {

constexpr Check check{"correlation_attention"};

// Numbers of a task that ask: more clusters read the weights fewer times, and leave the second-level cache.
constexpr int64_t NUMBERS_A_TASK = 1 << 16;

Tokens tokens_of(const Tensor& t) { return {t.const_data_ptr(), t.stride(0), t.stride(1), t.stride(2)}; }

Job job_of(
    const Tensor& member,
    const Tensor& anchor,
    const Tensor& weight,
    const std::optional<Tensor>& valid_member,
    const std::optional<Tensor>& valid_anchor,
    int64_t num_streams,
    bool anchor_asks) {
  check(member.dim() == 3 && anchor.dim() == 3 && weight.dim() == 3, "member, anchor or weight has not three dimensions");
  const int64_t B = member.size(0), d = member.size(2);
  check(anchor.size(0) == B && anchor.size(2) == d, "anchor is not [B, s, d] for a member [B, r, d]");
  check(num_streams > 0, "num_streams is not positive");
  check(
      (weight.size(0) == num_streams || weight.size(0) == 1) && weight.size(1) == d && weight.size(2) == d,
      "weight is not [num_streams, d, d] or [1, d, d]");
  const std::optional<Element> element = element_of(member);
  check(
      element == Element::float32 || element == Element::bfloat16 || element == Element::float16,
      "the operands are not float32, bfloat16 or float16");
  for (const Tensor* t : {&member, &anchor, &weight}) {
    check(t->is_cpu() && element_of(*t) == element, "the operands are not all of one dtype on the CPU");
  }
  Job job{};
  job.element = *element;
  job.bfloat16 = element == Element::bfloat16 && instruction_set() == InstructionSet::avx512_bf16;
  job.clusters = B, job.members = member.size(1), job.anchors = anchor.size(1), job.width = d;
  job.streams = num_streams, job.weights = weight.size(0);
  job.anchor_asks = anchor_asks;
  check(
      !anchor_asks || job.anchors >= (job.members + num_streams - 1) / num_streams,
      "the anchor, which asks, is shorter than a stream");
  job.member = tokens_of(member), job.anchor = tokens_of(anchor);
  check(!valid_member || is_mask(*valid_member, B, job.members), "valid_member is not bool [B, r] on the CPU");
  check(!valid_anchor || is_mask(*valid_anchor, B, job.anchors), "valid_anchor is not bool [B, s] on the CPU");
  const std::optional<Tensor>& valid = anchor_asks ? valid_member : valid_anchor;
  if (valid) {
    job.valid = static_cast<const uint8_t*>(valid->const_data_ptr());
    job.valid_cluster = valid->stride(0), job.valid_row = valid->stride(1);
  }
  const int64_t a_cluster = std::max<int64_t>(1, (job.members + num_streams - 1) / num_streams * d);
  const int64_t a_thread = B * num_streams / (2 * static_cast<int64_t>(torch::stable::get_num_threads()));
  job.clusters_a_task = std::max<int64_t>(1, std::min({NUMBERS_A_TASK / a_cluster, a_thread, B}));
  return job;
}

// Nobody asks, or nobody is there to be looked at.
bool is_empty(const Job& job) { return job.clusters == 0 || job.members == 0 || job.anchors == 0 || job.width == 0; }

Tensor pack(const Job& job, const Tensor& weight, bool transposed) {
  const StreamLoops& loops = streams_loops();
  const int64_t bytes = loops.packed_bytes(job), panels = loops.panels(job);
  const Tensor packed = new_empty(weight, {job.weights, bytes}, ScalarType::Byte);
  char* const to = static_cast<char*>(packed.mutable_data_ptr());
  const int64_t size = job.element == Element::float32 ? 4 : 2;
  for_each_task(job.weights * panels, 1, 0, [&](int64_t task, void*) {
    const int64_t w = task / panels;
    const char* const from = static_cast<const char*>(weight.const_data_ptr()) + w * weight.stride(0) * size;
    loops.pack(job, {from, job.element, weight.stride(1), weight.stride(2)}, transposed, task % panels, to + w * bytes);
  });
  return packed;
}

std::tuple<Tensor, Tensor> forward(
    const Tensor& member,
    const Tensor& anchor,
    const Tensor& weight,
    const std::optional<Tensor>& valid_member,
    const std::optional<Tensor>& valid_anchor,
    int64_t num_streams,
    bool anchor_asks,
    bool keep) {
  const Job job = job_of(member, anchor, weight, valid_member, valid_anchor, num_streams, anchor_asks);
  const std::vector<int64_t> shape{job.clusters, job.members, job.width};
  const std::vector<int64_t> kept_shape = keep ? shape : std::vector<int64_t>{0};
  if (is_empty(job)) {
    return {torch::stable::new_zeros(member, shape), torch::stable::new_zeros(member, kept_shape, ScalarType::Float)};
  }
  const Tensor projected = new_empty(member, kept_shape, ScalarType::Float);
  const Tensor output = new_empty(member, shape), packed = pack(job, weight, false);
  const StreamLoops& loops = streams_loops();
  const void* const weights = packed.const_data_ptr();
  void* const data = output.mutable_data_ptr();
  float* const kept = keep ? static_cast<float*>(projected.mutable_data_ptr()) : nullptr;
  for_each_task(job.streams * groups(job), 1, loops.scratch_bytes(job, false), [&](int64_t task, void* memory) {
    loops.forward(job, weights, data, kept, task, memory);
  });
  return {output, projected};
}

std::tuple<Tensor, Tensor, Tensor> backward(
    const Tensor& grad,
    const Tensor& projected,
    const Tensor& member,
    const Tensor& anchor,
    const Tensor& weight,
    const std::optional<Tensor>& valid_member,
    const std::optional<Tensor>& valid_anchor,
    int64_t num_streams,
    bool anchor_asks) {
  const Job job = job_of(member, anchor, weight, valid_member, valid_anchor, num_streams, anchor_asks);
  const int64_t B = job.clusters, d = job.width;
  check(
      grad.dim() == 3 && grad.size(0) == B && grad.size(1) == job.members && grad.size(2) == d && grad.is_cpu() &&
          element_of(grad) == job.element,
      "the gradient is not of the shape and dtype of member");
  check(
      projected.dim() == 3 && projected.size(0) == B && projected.size(1) == job.members && projected.size(2) == d &&
          projected.is_cpu() && projected.scalar_type() == ScalarType::Float && projected.is_contiguous(),
      "projected is not what the forward operator gives with keep = true");
  if (is_empty(job)) {
    return {
        torch::stable::new_zeros(member, {B, job.members, d}), torch::stable::new_zeros(anchor, {B, job.anchors, d}),
        torch::stable::new_zeros(weight, {job.weights, d, d})};
  }
  const Tensor grad_member = new_empty(member, {B, job.members, d}), grad_anchor = new_empty(anchor, {B, job.anchors, d});
  const Tensor grad_weight = new_empty(weight, {job.weights, d, d});
  const Tensor asked = new_empty(member, {B, job.members, d}, ScalarType::Float);
  const Tensor parts = new_empty(member, {B, num_streams, job.anchors, d}, ScalarType::Float);
  const Tensor packed_t = pack(job, weight, true);
  const Gradients gradients{
      tokens_of(grad),
      packed_t.const_data_ptr(),
      static_cast<const float*>(projected.const_data_ptr()),
      static_cast<float*>(asked.mutable_data_ptr()),
      static_cast<float*>(parts.mutable_data_ptr()),
      grad_member.mutable_data_ptr(),
      grad_anchor.mutable_data_ptr(),
      grad_weight.mutable_data_ptr()};
  const StreamLoops& loops = streams_loops();
  const int64_t bytes = loops.scratch_bytes(job, true);
  for_each_task(
      job.streams * groups(job), 1, bytes, [&](int64_t task, void* memory) { loops.backward(job, gradients, task, memory); });
  for_each_task(B, 1, 0, [&](int64_t cluster, void*) { loops.anchor_gradient(job, gradients, cluster); });
  for_each_task(loops.weight_tasks(job), 1, bytes, [&](int64_t task, void* memory) {
    loops.weight_gradient(job, gradients, task, memory);
  });
  return {grad_member, grad_anchor, grad_weight};
}

}  // namespace
}  // namespace intraformer::correlation_attention

// Python defines the schemas (intraformer_fast/ops/).
STABLE_TORCH_LIBRARY_IMPL(intraformer_fast, CPU, library) {
  library.impl("correlation_attention", TORCH_BOX(&intraformer::correlation_attention::forward));
  library.impl("correlation_attention_backward", TORCH_BOX(&intraformer::correlation_attention::backward));
}
