// best_cosines: of the candidates of each row those with the highest cosine, which is the same number everywhere.
//
// Operator (schema in csrc/library.cpp; a table of N rows of width d, b queries with m candidates each, c results each):
//
//   best_cosines(Tensor rows, Tensor inverse_norm, Tensor queries, Tensor candidates, int count) -> Tensor keys
//
//   rows          float32 [N, d]  multiples of 2^-24 of length about 1; contiguous, as are all
//   inverse_norm  float64 [N]     1 / |row|
//   queries       int64 [b]       which rows ask
//   candidates    int64 [b, m]    rows, none twice for a query; -1 is skipped, and so is the query itself
//   count                         c, from 1 to m + 1
//   keys          int64 [b, c]    falling; the first is the query itself with an infinite cosine; NO_KEY where candidates are too few
//
// The upper half of a key is the float32 cosine as an integer of the same order, the lower one the row counted down from 2^32 - 1: no
// two are equal, so that the best have one right order, rising ids among equal cosines.
//
// Products of two components are multiples of 2^-48, and no partial sum is much above 1: float64 adds them without rounding, so
// that the order of a sum, and with it the width of a vector, changes no bit (intraformer_fast/graph/cosine.py).
//
// A query's candidates are gathered from all over the table: what is near in cosine was not near in memory. While one row is
// multiplied the next ones are fetched.
#pragma once

#include <cstdint>
#include <limits>

namespace intraformer::best_cosines {

constexpr int64_t NO_KEY = std::numeric_limits<int64_t>::min();

inline int64_t key_of(float cosine, int64_t row) {
  int32_t bits;
  cosine += 0.0f;  // -0 and 0 are one cosine
  __builtin_memcpy(&bits, &cosine, sizeof bits);
  bits ^= (bits >> 31) & 0x7fffffff;
  return static_cast<int64_t>(static_cast<uint64_t>(static_cast<int64_t>(bits)) << 32) + (0xffffffffll - row);
}

}  // namespace intraformer::best_cosines
