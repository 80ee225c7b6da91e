// The products of list_search on the CPU, without torch: compiled once per instruction set, called from cpu.cpp and from tests.
#pragma once

#include <cstdint>

#include "cpu/instruction_set.h"

namespace intraformer::list_search {

struct Found;

// Keeps a candidate. It comes from outside: the loops must not instantiate the standard library (csrc/README.md).
using Push = void (*)(const Found&, int64_t query, float score, int64_t place);

struct List {
  const float* rows;  // [size, width]
  int64_t size, width;
  int64_t first;  // the place of the first
};

// Of a task, [queries, width]; `asking` are those that probe the list.
struct Queries {
  const float* rows;
  const int32_t* asking;
  int64_t count;
};

struct ListLoops {
  // Bytes that `scan` needs for itself, at a multiple of 64.
  int64_t (*scratch_bytes)(int64_t width);
  // Pushes what reaches floor[query], which pushing may raise.
  void (*scan)(const List&, const Queries&, const float* floor, Push, const Found&, void* scratch);
};

INTRAFORMER_LOOPS(ListLoops, lists, avx512)

}  // namespace intraformer::list_search
