// The CPU operators of encoder_block: torch tensors in and out, (stream, clusters) tasks shared out over PyTorch's threads.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "cpu/tensors.h"
#include "encoder_block/cpu_block.h"
#include "encoder_block/op.h"

namespace intraformer::encoder_block {
namespace {

constexpr Check check{"encoder_block"};

// Rows that a task brings together where sub-clusters are shorter: fewer leave registers and the packed weights half used.
constexpr int64_t ROWS_A_TASK = 64;

Compute compute_of(const std::string& name) {
  check(name == "float32" || name == "bfloat16" || name == "int8", "compute is not float32, bfloat16 or int8");
  return name == "int8" ? Compute::int8 : name == "bfloat16" ? Compute::bfloat16 : Compute::float32;
}

Sizes checked_sizes(int64_t width, int64_t heads, int64_t hidden, bool cross, const std::string& compute) {
  check(heads > 0 && width > 0 && width % heads == 0 && width / heads % 16 == 0, "the width of a head is not a multiple of 16");
  check(hidden > 0 && hidden % 16 == 0, "the width of the feed-forward network is not a multiple of 16");
  // 255 * 127 * width is below 2^31.
  check(compute != "int8" || width <= 1 << 16, "int32 does not hold the sums of so many channels");
  return {width, heads, hidden, cross, compute_of(compute)};
}

Tensor pack(const std::vector<Tensor>& parameters, int64_t num_heads, std::string compute) {
  const bool cross = parameters.size() == CROSS_PARAMETERS;
  check(cross || parameters.size() == PARAMETERS, "not the 12 parameters of a Transformer or the 17 of a Cross-transformer");
  check(parameters[0].dim() == 1 && parameters[9].dim() == 1, "the first or the tenth parameter is not a vector");
  const int64_t d = parameters[0].size(0), f = parameters[9].size(0);
  const Sizes sizes = checked_sizes(d, num_heads, f, cross, compute);
  const std::vector<int64_t> shapes[CROSS_PARAMETERS] = {{d}, {d},    {3 * d, d}, {3 * d}, {d, d}, {d}, {d}, {d}, {f, d},
                                                         {f}, {d, f}, {d},        {d, d},  {d},    {d}, {d}, {d}};
  Parameters values{};
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Tensor& p = parameters[i];
    bool right = p.is_cpu() && p.is_contiguous() && p.scalar_type() == ScalarType::Float &&
                 p.dim() == static_cast<int64_t>(shapes[i].size());
    for (size_t j = 0; right && j < shapes[i].size(); ++j) right = p.size(j) == shapes[i][j];
    check(right, "parameter " + std::to_string(i) + " is not a contiguous float32 tensor of the expected shape on the CPU");
    values.values[i] = static_cast<const float*>(p.const_data_ptr());
  }
  const BlockLoops& loops = block_loops();
  const Tensor packed = new_empty(parameters[0], {loops.packed_bytes(sizes)}, ScalarType::Byte);
  loops.pack(sizes, values, packed.mutable_data_ptr());
  return packed;
}

int64_t fingerprint(const std::vector<Tensor>& parameters) {
  constexpr int64_t SAMPLES = 64;
  uint64_t hash = 14695981039346656037u;  // FNV-1a, a word at a time
  for (const Tensor& p : parameters) {
    check(p.is_cpu() && p.scalar_type() == ScalarType::Float, "a parameter is not float32 on the CPU");
    const float* const data = static_cast<const float*>(p.const_data_ptr());
    const int64_t count = p.numel(), samples = std::min(count, SAMPLES);
    for (int64_t i = 0; i < samples; ++i) {
      int64_t rest = i * (count - 1) / std::max<int64_t>(1, samples - 1), offset = 0;
      for (int64_t axis = p.dim() - 1; axis >= 0; --axis) {
        offset += rest % p.size(axis) * p.stride(axis);
        rest /= p.size(axis);
      }
      uint32_t word;
      std::memcpy(&word, data + offset, sizeof word);
      hash = (hash ^ word) * 1099511628211u;
    }
  }
  return static_cast<int64_t>(hash);
}

Tensor forward(
    const Tensor& tokens,
    const std::optional<Tensor>& valid,
    const std::vector<Tensor>& packed,
    int64_t num_heads,
    int64_t hidden_width,
    std::string compute,
    bool anchor_asks,
    double epsilon,
    bool post_norm,
    bool relu,
    bool padding_asks) {
  check(tokens.dim() == 3 && tokens.scalar_type() == ScalarType::Float, "tokens is not float32 [B, n, d]");
  const int64_t B = tokens.size(0), n = tokens.size(1), d = tokens.size(2), k = static_cast<int64_t>(packed.size());
  check(tokens.stride(2) == 1, "the channels of a token are not contiguous");
  check(k > 0, "no packed weights were given");
  check(k == 1 || !(post_norm || padding_asks), "post_norm and padding_asks are for one stream");
  const BlockLoops& loops = block_loops();
  const Sizes sizes = checked_sizes(d, num_heads, hidden_width, k > 1, compute);
  Job job{};
  job.sizes = sizes;
  job.clusters = B, job.tokens = n, job.streams = k;
  job.input = static_cast<const float*>(tokens.const_data_ptr());
  job.cluster_stride = tokens.stride(0), job.token_stride = tokens.stride(1);
  if (valid.has_value()) {
    check(is_mask(*valid, B, n), "valid is not bool [B, n] on the CPU");
    job.valid = static_cast<const uint8_t*>(valid->const_data_ptr());
    job.valid_cluster_stride = valid->stride(0), job.valid_token_stride = valid->stride(1);
  }
  std::vector<const void*> weights;
  for (int64_t m = 0; m < k; ++m) {
    const Tensor& p = packed[m];
    const int64_t bytes = loops.packed_bytes({d, num_heads, hidden_width, m > 0, sizes.compute});
    check(
        p.is_cpu() && p.scalar_type() == ScalarType::Byte && p.dim() == 1 && p.is_contiguous() && p.size(0) == bytes,
        "packed weights " + std::to_string(m) + " were not packed for a stream of these sizes");
    weights.push_back(p.const_data_ptr());
  }
  job.packed = weights.data();
  job.anchor_asks = anchor_asks;
  job.layer = {post_norm, relu, padding_asks};
  job.epsilon = static_cast<float>(epsilon);
  const Tensor output = new_empty(tokens, {B, n, d});
  job.output = static_cast<float*>(output.mutable_data_ptr());
  if (B == 0 || n == 0) return output;
  const int64_t a_sub_cluster = (n + k - 1) / k, threads = torch::stable::get_num_threads();
  job.clusters_a_task = std::clamp<int64_t>(B * k / threads, 1, std::min(B, std::max<int64_t>(1, ROWS_A_TASK / a_sub_cluster)));
  const int64_t bytes = loops.scratch_bytes(job);
  for_each_task(k * groups(job), 1, bytes, [&](int64_t task, void* memory) { loops.run(job, task, memory); });
  return output;
}

}  // namespace
}  // namespace intraformer::encoder_block

STABLE_TORCH_LIBRARY_IMPL(intraformer_fast, CPU, library) {
  library.impl("encoder_block_pack", TORCH_BOX(&intraformer::encoder_block::pack));
  library.impl("encoder_block_fingerprint", TORCH_BOX(&intraformer::encoder_block::fingerprint));
  library.impl("encoder_block", TORCH_BOX(&intraformer::encoder_block::forward));
}
