// The CPU operators of stream_linear: torch tensors in and out, blocks of rows and parts of weights shared out over PyTorch's threads.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "cpu/tensors.h"
#include "stream_linear/cpu_linear.h"
#include "stream_linear/op.h"

namespace intraformer::stream_linear {
namespace {

constexpr Check check{"stream_linear"};

using Tensors = std::vector<Tensor>;

// Operations that a thread takes at least: below this the hand-over costs more than the work.
constexpr int64_t GRAIN = 1 << 20;

Tensor with_contiguous_channels(const Tensor& t) { return t.stride(2) == 1 ? t : torch::stable::contiguous(t); }

Tokens tokens_of(const Tensor& t) { return {t.const_data_ptr(), *element_of(t), t.stride(0), t.stride(1)}; }

Tensor checked_tokens(const Tensor& t, int64_t clusters, int64_t tokens, int64_t width, const char* name) {
  const bool shaped = t.is_cpu() && t.dim() == 3 && t.size(0) == clusters && t.size(1) == tokens && t.size(2) == width;
  const bool typed = shaped && (t.scalar_type() == ScalarType::Float || t.scalar_type() == ScalarType::BFloat16);
  check(
      typed, std::string(name) + " is not a float32 or bfloat16 tensor [" + std::to_string(clusters) + ", " +
                 std::to_string(tokens) + ", " + std::to_string(width) + "] on the CPU");
  return with_contiguous_channels(t);
}

// The parameters of all streams, contiguous; keeps what the job points to.
struct Layers {
  Tensors kept;
  std::vector<Parameters> streams;
  int64_t inputs, outputs;

  Layers(const Tensors& weights, const Tensors* biases, const Tensors& norm_weights, const Tensors& norm_biases) {
    const size_t k = weights.size();
    check(k > 0 && weights[0].dim() == 2, "weights is not a list of matrices, one a stream");
    outputs = weights[0].size(0), inputs = weights[0].size(1);
    check(outputs > 0 && outputs % 16 == 0 && inputs > 0 && inputs % 16 == 0, "a width is not a multiple of 16");
    check(biases == nullptr || biases->size() == k, "there are not as many biases as weights");
    check(
        norm_weights.size() == norm_biases.size() && (norm_weights.empty() || norm_weights.size() == k),
        "norm_weights and norm_biases are neither empty nor as many as the weights");
    streams.resize(k);
    for (size_t m = 0; m < k; ++m) {
      streams[m].weight = data(weights[m], {outputs, inputs}, "a weight");
      if (biases) streams[m].bias = data((*biases)[m], {outputs}, "a bias");
      if (norm_weights.empty()) continue;
      streams[m].norm_weight = data(norm_weights[m], {inputs}, "a weight of a norm");
      streams[m].norm_bias = data(norm_biases[m], {inputs}, "a bias of a norm");
    }
  }

 private:
  const float* data(const Tensor& t, const std::vector<int64_t>& shape, const char* name) {
    bool right = t.is_cpu() && t.scalar_type() == ScalarType::Float && t.dim() == static_cast<int64_t>(shape.size());
    for (size_t i = 0; right && i < shape.size(); ++i) right = t.size(i) == shape[i];
    check(right, std::string(name) + " is not float32 on the CPU, or not of the shape that the first weight asks for");
    kept.push_back(t.is_contiguous() ? t : torch::stable::contiguous(t));
    return static_cast<const float*>(kept.back().const_data_ptr());
  }
};

Job job_of(const Tensor& input, const Layers& layers, bool norm, bool gelu, bool bfloat16) {
  check(!(norm && gelu), "a LayerNorm and a GELU stand in front of one layer");
  Job job{};
  job.before = norm ? Before::layer_norm : gelu ? Before::gelu : Before::nothing;
  job.bfloat16 = bfloat16 && instruction_set() == InstructionSet::avx512_bf16;
  job.clusters = input.size(0), job.tokens = input.size(1), job.streams = static_cast<int64_t>(layers.streams.size());
  job.inputs = layers.inputs, job.outputs = layers.outputs;
  job.input = tokens_of(input);
  job.parameters = layers.streams.data();
  return job;
}

// Tasks that a thread takes at least, of so many that share the operations of one product.
int64_t grain_of(const Job& job, int64_t tasks) {
  const int64_t operations = 2 * job.clusters * job.tokens * job.inputs * job.outputs;
  return std::max<int64_t>(1, GRAIN / std::max<int64_t>(1, operations / std::max<int64_t>(1, tasks)));
}

// `packed` keeps what the job points to.
Tensor pack(Job& job, const Tensor& like, bool backward) {
  const LinearLoops& loops = linear_loops();
  const Tensor packed = new_empty(like, {loops.packed_bytes(job, backward)}, ScalarType::Byte);
  job.packed = packed.mutable_data_ptr();
  for_each_task(loops.pack_tasks(job, backward), 4, 0, [&](int64_t task, void*) { loops.pack(job, backward, task); });
  return packed;
}

std::tuple<Tensor, Tensor> forward(
    const Tensor& input,
    const std::optional<Tensor>& residual,
    const Tensors& weights,
    const Tensors& biases,
    const Tensors& norm_weights,
    const Tensors& norm_biases,
    bool gelu,
    double epsilon,
    bool bfloat16) {
  const Layers layers(weights, &biases, norm_weights, norm_biases);
  check(input.dim() == 3, "input is not [B, n, c]");
  const int64_t B = input.size(0), n = input.size(1);
  const Tensor tokens = checked_tokens(input, B, n, layers.inputs, "input");
  const bool norm = !norm_weights.empty();
  Job job = job_of(tokens, layers, norm, gelu, bfloat16);
  job.epsilon = static_cast<float>(epsilon);
  Forward to{};
  ScalarType dtype = bfloat16 ? ScalarType::BFloat16 : ScalarType::Float;
  std::optional<Tensor> added;
  if (residual.has_value()) {
    added = checked_tokens(*residual, B, n, layers.outputs, "residual");
    to.residual = tokens_of(*added);
    dtype = added->scalar_type();
  }
  const Tensor output = new_empty(input, {B, n, layers.outputs}, dtype);
  const Tensor moments = norm ? new_empty(input, {2, B, n}, ScalarType::Float) : new_empty(input, {0}, ScalarType::Float);
  if (B == 0 || n == 0) return {output, moments};
  to.output = output.mutable_data_ptr(), to.element = *element_of(output);
  job.moments = static_cast<float*>(moments.mutable_data_ptr());
  const LinearLoops& loops = linear_loops();
  const Tensor packed = pack(job, input, false);
  const int64_t tasks = loops.row_tasks(job);
  for_each_task(tasks, grain_of(job, tasks), loops.scratch_bytes(job, false), [&](int64_t task, void* memory) {
    loops.forward(job, to, task, memory);
  });
  return {output, moments};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& grad,
    const Tensor& input,
    const Tensor& moments,
    const Tensors& weights,
    const Tensors& norm_weights,
    const Tensors& norm_biases,
    bool gelu,
    bool bfloat16) {
  const Layers layers(weights, nullptr, norm_weights, norm_biases);
  check(input.dim() == 3, "input is not [B, n, c]");
  const int64_t B = input.size(0), n = input.size(1), k = static_cast<int64_t>(weights.size());
  const Tensor tokens = checked_tokens(input, B, n, layers.inputs, "input");
  const Tensor grads = checked_tokens(grad, B, n, layers.outputs, "grad");
  const bool norm = !norm_weights.empty();
  check(
      moments.is_cpu() && moments.scalar_type() == ScalarType::Float && moments.is_contiguous() &&
          moments.numel() == (norm ? 2 * B * n : 0),
      "moments is not what the forward pass returned");
  Job job = job_of(tokens, layers, norm, gelu, bfloat16);
  job.moments = static_cast<float*>(const_cast<void*>(moments.const_data_ptr()));  // only read
  const auto gradient = [&](std::vector<int64_t> shape) { return new_empty(input, shape, ScalarType::Float); };
  const Tensor grad_input = new_empty(input, {B, n, layers.inputs});
  const Tensor grad_weights = gradient({k, layers.outputs, layers.inputs}), grad_biases = gradient({k, layers.outputs});
  const Tensor grad_norm_weights = gradient({norm ? k : 0, layers.inputs}),
               grad_norm_biases = gradient({norm ? k : 0, layers.inputs});
  const LinearLoops& loops = linear_loops();
  Tensor packed, kept;
  Backward to{};
  to.grad = tokens_of(grads), to.grad_input = grad_input.mutable_data_ptr();
  to.weights = static_cast<float*>(grad_weights.mutable_data_ptr());
  to.biases = static_cast<float*>(grad_biases.mutable_data_ptr());
  to.norm_weights = static_cast<float*>(grad_norm_weights.mutable_data_ptr());
  to.norm_biases = static_cast<float*>(grad_norm_biases.mutable_data_ptr());
  if (B > 0 && n > 0) {
    packed = pack(job, input, true);
    kept = new_empty(input, {loops.kept_bytes(job)}, ScalarType::Byte);
    to.kept = kept.mutable_data_ptr();
    const int64_t tasks = loops.row_tasks(job);
    for_each_task(tasks, grain_of(job, tasks), loops.scratch_bytes(job, true), [&](int64_t task, void* memory) {
      loops.backward(job, to, task, memory);
    });
  }
  const int64_t tasks = loops.weight_tasks(job);
  for_each_task(tasks, grain_of(job, tasks), 0, [&](int64_t task, void*) { loops.weights(job, to, task); });
  return {grad_input, grad_weights, grad_biases, grad_norm_weights, grad_norm_biases};
}

}  // namespace
}  // namespace intraformer::stream_linear

STABLE_TORCH_LIBRARY_IMPL(intraformer_fast, CPU, library) {
  library.impl("stream_linear", TORCH_BOX(&intraformer::stream_linear::forward));
  library.impl("stream_linear_backward", TORCH_BOX(&intraformer::stream_linear::backward));
}
