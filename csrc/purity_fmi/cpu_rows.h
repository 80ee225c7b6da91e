// The row loops of purity_fmi on the CPU, without torch: compiled once per instruction set, called from cpu.cpp and from tests.
#pragma once

#include <cstdint>

#include "cpu/instruction_set.h"
#include "cpu/strided.h"

namespace intraformer::purity_fmi {

// Element [i, j] is at data + i * row_stride + j * column_stride, counted in elements; strides may be 0 or negative.
struct Matrix {
  const void* data;  // null: absent
  int64_t row_stride;
  int64_t column_stride;
  Element element;
};

struct Inputs {
  Matrix prediction;  // float32, bfloat16, float16 or float64
  Matrix target;      // any
  Matrix valid;       // byte, or absent
  int64_t columns;
  bool from_logits;
  bool exact;
};

// Pointers are to the accumulation type: double for float64 predictions, else float.
struct ForwardOutputs {
  void* loss;    // [rows]
  void* purity;  // [rows]
  void* sums;    // [rows, 3]
};

struct Gradients {
  const void* loss;  // [rows], at loss_stride
  int64_t loss_stride;
  const void* purity;
  int64_t purity_stride;
  const void* sums;  // [rows, 3]
  void* prediction;  // [rows, columns], of the prediction's element, contiguous
};

constexpr int64_t NO_ROW = INT64_MAX;

struct RowLoops {
  // Rows [begin, end). Returns the first of them with a valid target other than 0 and 1, else NO_ROW.
  int64_t (*forward)(const Inputs&, const ForwardOutputs&, int64_t begin, int64_t end);
  void (*backward)(const Inputs&, const Gradients&, int64_t begin, int64_t end);
};

INTRAFORMER_LOOPS(RowLoops, rows, avx512)

}  // namespace intraformer::purity_fmi
