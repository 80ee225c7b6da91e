// C-ATT of all streams on the CPU, without torch: compiled once per instruction set, called from cpu.cpp and from tests.
#pragma once

#include <cstdint>

#include "cpu/instruction_set.h"
#include "cpu/strided.h"

namespace intraformer::correlation_attention {

// Channel c of token t of cluster b is number b * cluster + t * row + c * channel of `data`.
struct Tokens {
  const void* data;
  int64_t cluster, row, channel;
};

struct Job {
  Element element;  // of tokens, weights and their gradients: float32, bfloat16 or float16
  bool bfloat16;    // operands of the matrix products, else float32
  int64_t clusters, members, anchors, width, streams;
  int64_t weights;          // as many as streams, or 1
  int64_t clusters_a_task;  // that a weight is read for at a time
  bool anchor_asks;
  Tokens member, anchor;
  const uint8_t* valid;  // of the tokens that are looked at, 0 at padding; null: no padding
  int64_t valid_cluster, valid_row;
};

struct Gradients {
  Tokens grad;             // of the output
  const void* packed_t;    // [weights][packed_bytes], transposed, each its panels one after the other
  const float* projected;  // [clusters, members, width], as of forward()
  float* asked;            // [clusters, members, width], of what the queries became by the weights; written by backward()
  float* parts;            // [clusters, streams, anchors, width], of the anchor by each stream; written by backward()
  void* member;            // [clusters, members, width], of the element of the job, as the next two
  void* anchor;            // [clusters, anchors, width]
  void* weight;            // [weights, width, width]
};

struct StreamLoops {
  int64_t (*packed_bytes)(const Job&);  // of one weight, a multiple of 64
  int64_t (*panels)(const Job&);        // of one weight
  // Packs a panel of one weight into its place.
  void (*pack)(const Job&, const Strided& weight, bool transposed, int64_t panel, void* packed);
  // Bytes that a task needs for itself, at a multiple of 64, zero before the first use.
  int64_t (*scratch_bytes)(const Job&, bool backward);
  // Task t does the clusters [g * clusters_a_task, ...) of stream t / groups, with g = t % groups.
  // `packed` [weights][packed_bytes], each its panels one after the other. Output [clusters, members, width] is contiguous, as is
  // `projected`, of what the weights make of the tokens that ask; null: it is not kept.
  void (*forward)(const Job&, const void* packed, void* output, float* projected, int64_t task, void* scratch);
  void (*backward)(const Job&, const Gradients&, int64_t task, void* scratch);
  // After all of backward(): the anchor of a cluster; some columns of a weight, of which there are weight_tasks().
  void (*anchor_gradient)(const Job&, const Gradients&, int64_t cluster);
  int64_t (*weight_tasks)(const Job&);
  void (*weight_gradient)(const Job&, const Gradients&, int64_t task, void* scratch);
};

inline int64_t groups(const Job& job) { return (job.clusters + job.clusters_a_task - 1) / job.clusters_a_task; }

INTRAFORMER_LOOPS(StreamLoops, streams, avx512_bf16)

}  // namespace intraformer::correlation_attention
