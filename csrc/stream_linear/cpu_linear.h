// Linear layers of streams on the CPU, without torch: compiled once per instruction set, called from cpu.cpp and from tests.
//
// Forward: pack every panel of the weights, then run the blocks of rows. Backward: pack, the blocks of rows, then the weights. The
// tasks of a step may run in any order, on any threads; each step needs all of the one before it.
#pragma once

#include <cstdint>

#include "cpu/instruction_set.h"
#include "cpu/strided.h"

namespace intraformer::stream_linear {

// What stands in front of the product.
enum class Before : uint8_t { nothing, layer_norm, gelu };

// Channel c of token t of cluster b is number b * cluster + t * token + c of `data`: float32 or bfloat16.
struct Tokens {
  const void* data;
  Element element;
  int64_t cluster, token;
};

// Of a stream; contiguous.
struct Parameters {
  const float* weight;  // [outputs, inputs]
  const float* bias;    // [outputs]; not for the gradients
  const float* norm_weight;
  const float* norm_bias;  // [inputs], with a LayerNorm
};

struct Job {
  Before before;
  bool bfloat16;  // operands of the products, else float32
  int64_t clusters, tokens, streams, inputs, outputs;
  float epsilon;
  Tokens input;
  const Parameters* parameters;  // [streams]
  void* packed;                  // what packed_bytes asks for
  float* moments;                // [2, clusters, tokens], with a LayerNorm
};

struct Forward {
  Tokens residual;  // data is null where there is none
  void* output;     // [clusters, tokens, outputs]
  Element element;
};

// Where no task may write there may lie anything.
struct Backward {
  Tokens grad;
  void* grad_input;  // [clusters, tokens, inputs], as the input
  void* kept;        // what kept_bytes asks for
  float* weights;    // [streams, outputs, inputs]
  float* biases;     // [streams, outputs]
  float* norm_weights;
  float* norm_biases;  // [streams, inputs], with a LayerNorm
};

struct LinearLoops {
  int64_t (*packed_bytes)(const Job&, bool backward);
  int64_t (*kept_bytes)(const Job&);
  // Bytes that a task needs for itself, at a multiple of 64.
  int64_t (*scratch_bytes)(const Job&, bool backward);
  int64_t (*pack_tasks)(const Job&, bool backward);
  void (*pack)(const Job&, bool backward, int64_t task);
  int64_t (*row_tasks)(const Job&);
  void (*forward)(const Job&, const Forward&, int64_t task, void* scratch);
  void (*backward)(const Job&, const Backward&, int64_t task, void* scratch);
  int64_t (*weight_tasks)(const Job&);
  void (*weights)(const Job&, const Backward&, int64_t task);
};

INTRAFORMER_LOOPS(LinearLoops, linear, avx512_bf16)

}  // namespace intraformer::stream_linear
