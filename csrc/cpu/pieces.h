// Memory of a thread cut into pieces.
//
// Included by the files that are compiled once per instruction set; the rules of vector.h hold here too.
#pragma once

#include "cpu/gemm.h"

namespace {

// Hands out consecutive pieces of a buffer, each at a multiple of 64 bytes; with a null buffer it only counts.
struct Pieces {
  char* base;
  int64_t used;

  template <typename T>
  INTRAFORMER_INLINE T* next(Pieces& pieces, int64_t count) {
    T* const piece = pieces.base == nullptr ? nullptr : reinterpret_cast<T*>(pieces.base + pieces.used);
    pieces.used += round_up(count * static_cast<int64_t>(sizeof(T)), 64);
    return piece;
  }
};

}  // namespace
