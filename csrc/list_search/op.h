// list_search: the best inner products of queries with the rows of the inverted lists that each of them probes.
//
// Operator (schema in csrc/library.cpp; N rows in L lists, b queries of width d, p probes and c results each):
//
//   list_search(Tensor rows, Tensor starts, Tensor queries, Tensor probes, int count) -> (Tensor places, Tensor scores)
//
//   rows      float32 [N, d]  list after list; contiguous, as are all
//   starts    int64 [L + 1]   the rows of list l are rows[starts[l] : starts[l + 1]]; rises from 0 to N
//   queries   float32 [b, d]
//   probes    int32 [b, p]    lists, at least one, the nearest first, none twice for a query
//   count                     c, at least 1
//   places    int64 [b, c]    rows, best first: by falling score, equal scores by rising place; -1 where the lists hold fewer
//   scores    float32 [b, c]  the inner products; -infinity there
//
// A list at a time, not a query at a time: all queries of a task that probe a list are multiplied with it at once, so that what a
// search of one query reads from memory for each of its products is here an operand of a matrix product (cpu/gemm.h). Scores
// never leave the first-level cache: a tile is compared with the score that each query has to beat, and only what beats it
// is kept.
//
// Tasks are made of queries whose nearest lists follow each other, and are large: every query that probes the same list halves what
// the product of that list with a panel wastes.
//
// A query keeps up to 2 c candidates; when they are full, the better half stays and the worst of it is what is to be beaten.
// Scores are sums along d in order, whatever tile they fall into, and the order of candidates is a total one: the result does
// not depend on the number of threads, the tasks, or the order of the lists.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>

namespace intraformer::list_search {

// A score and a place as a number, greater where the candidate is better.
inline uint64_t key_of(float score, int64_t place) {
  uint32_t bits;
  score += 0.0f;  // -0 and 0 are one score
  __builtin_memcpy(&bits, &score, sizeof bits);
  bits ^= bits >> 31 ? 0xffffffffu : 0x80000000u;
  return uint64_t{bits} << 32 | (0xffffffffu - static_cast<uint32_t>(place));
}

inline float score_of(uint64_t key) {
  uint32_t bits = static_cast<uint32_t>(key >> 32);
  bits ^= bits >> 31 ? 0x80000000u : 0xffffffffu;
  float score;
  __builtin_memcpy(&score, &bits, sizeof score);
  return score;
}

inline int64_t place_of(uint64_t key) { return 0xffffffffu - static_cast<uint32_t>(key); }

// What the queries of a task have found so far.
struct Found {
  uint64_t* keys;    // [queries, capacity]
  int32_t* held;     // [queries]
  float* floor;      // [queries], what a score has to reach
  int64_t capacity;  // more than count
  int64_t count;

  void push(int64_t query, float score, int64_t place) const {
    uint64_t* const own = keys + query * capacity;
    own[held[query]++] = key_of(score, place);
    if (held[query] < capacity) return;
    std::nth_element(own, own + count - 1, own + capacity, std::greater<>());
    held[query] = static_cast<int32_t>(count);
    floor[query] = score_of(own[count - 1]);
  }
};

}  // namespace intraformer::list_search
