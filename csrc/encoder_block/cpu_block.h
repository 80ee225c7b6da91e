// The fused encoder block on the CPU, without torch: compiled once per instruction set, called from cpu.cpp and from tests.
#pragma once

#include <cstdint>

#include "cpu/instruction_set.h"

namespace intraformer::encoder_block {

// What the matrix products multiply: int8 in the linear layers, and float32 beside them.
enum class Compute : int64_t { float32, bfloat16, int8 };

// What fixes the layout of a stream's packed weights.
struct Sizes {
  int64_t width;   // d, a multiple of 16
  int64_t heads;   // H; the width of a head is a multiple of 16
  int64_t hidden;  // of the feed-forward network, a multiple of 16
  bool cross;      // a Cross-transformer: C-ATT after the self-attention
  Compute compute;
};

constexpr int PARAMETERS = 12;        // of a Transformer
constexpr int CROSS_PARAMETERS = 17;  // of a Cross-transformer

// A stream's parameters, contiguous float32. Linear weights are [out, in], as torch keeps them.
struct Parameters {
  const float* values[CROSS_PARAMETERS];  // in the order of op.h; the last five only with Sizes::cross
};

// What a layer of another encoder does differently (op.h).
struct Layer {
  bool post_norm;     // the norms follow the residuals, as in the first Transformer; one stream only
  bool relu;          // in place of GELU
  bool padding_asks;  // what attention answers to padding is added to it as to any other token
};

// Some clusters through one block. Strides are counted in elements; the channels of a token follow each other.
struct Job {
  Sizes sizes;               // `cross` is that of the streams after the first
  int64_t clusters, tokens;  // B, n
  int64_t streams;           // k
  const float* input;        // [B, n, d]
  int64_t cluster_stride, token_stride;
  const uint8_t* valid;  // [B, n], 0 at padding; null: no padding
  int64_t valid_cluster_stride, valid_token_stride;
  const void* const* packed;  // [k], each from BlockLoops::pack
  bool anchor_asks;           // cross_query="anchor"
  Layer layer;
  float epsilon;  // of the LayerNorms
  int64_t clusters_a_task;
  float* output;  // [B, n, d], contiguous, apart from the input
};

struct BlockLoops {
  // Bytes of a stream's packed weights, to lie at a multiple of 64.
  int64_t (*packed_bytes)(const Sizes&);
  void (*pack)(const Sizes&, const Parameters&, void* packed);
  // Bytes that a task needs for itself, at a multiple of 64, zero before the first use.
  int64_t (*scratch_bytes)(const Job&);
  // Task t does the clusters [g * clusters_a_task, ...) of stream t / groups, with g = t % groups.
  void (*run)(const Job&, int64_t task, void* scratch);
};

inline int64_t groups(const Job& job) { return (job.clusters + job.clusters_a_task - 1) / job.clusters_a_task; }

INTRAFORMER_INT8_LOOPS(BlockLoops, block, avx512_vnni, avx512_bf16)

}  // namespace intraformer::encoder_block
