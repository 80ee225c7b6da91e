// Block attention on the CPU, without torch: compiled once per instruction set, called from cpu.cpp and from tests.
#pragma once

#include <cstdint>

#include "cpu/instruction_set.h"
#include "cpu/strided.h"

namespace intraformer::block_attention {

// Channel c of row t of head h of cluster b is number b * cluster + h * head + t * row + c * channel of `data`.
struct Heads {
  const void* data;
  int64_t cluster, head, row, channel;
};

struct Job {
  Element element;  // of queries, keys, values and their gradients: float32, bfloat16 or float16
  bool bfloat16;    // operands of the matrix products, else float32
  int64_t clusters, heads, tokens, width, blocks;
  float scale;
  Heads query, key, value;
  const int64_t* rows;  // [clusters, tokens], the row of each token, negative at padding; null: its own number, and no padding
  bool in_order;        // a token that is no padding has the row of its own number
};

// Tensors [clusters, tokens, heads, width], contiguous.
struct Gradients {
  Heads grad;       // of the output
  Element element;  // of the next three
  void* query;
  void* key;
  void* value;
};

struct HeadLoops {
  // Bytes that a task needs for itself, at a multiple of 64, zero before the first use.
  int64_t (*scratch_bytes)(const Job&, bool backward);
  // Task t does head t % heads of the block t / heads % blocks of a cluster. Output [clusters, tokens, heads, width] is contiguous.
  void (*forward)(const Job&, void* output, int64_t task, void* scratch);
  void (*backward)(const Job&, const Gradients&, int64_t task, void* scratch);
};

inline int64_t tasks(const Job& job) { return job.clusters * job.blocks * job.heads; }

INTRAFORMER_LOOPS(HeadLoops, heads, avx512_bf16)

}  // namespace intraformer::block_attention
