// csrc/intimacy/op.h against sets written out, by one thread and by several that merge at once. Exit code 1 where they differ.
#include "intimacy/op.h"

#include <cstdio>
#include <numeric>
#include <random>
#include <set>
#include <thread>
#include <vector>

namespace {

using intraformer::intimacy::DisjointSets;
using intraformer::intimacy::Graph;

constexpr int32_t NODES = 700;

// Targets of each node: most of its own group of 20, some of others.
std::vector<std::set<int32_t>> draw(std::mt19937& random) {
  std::vector<std::set<int32_t>> targets(NODES);
  for (int32_t i = 0; i < NODES; ++i) {
    for (int t = 0; t < 12; ++t) {
      const int32_t near = i / 20 * 20 + static_cast<int32_t>(random() % 20), far = static_cast<int32_t>(random() % NODES);
      const int32_t target = random() % 4 ? near : far;
      if (target != i) targets[i].insert(target);
    }
  }
  return targets;
}

// The lowest node of each component, by relabelling until nothing changes.
std::vector<int32_t> expected(const std::vector<std::set<int32_t>>& targets, double threshold) {
  std::vector<int32_t> labels(NODES);
  std::iota(labels.begin(), labels.end(), 0);
  for (bool changed = true; changed;) {
    changed = false;
    for (int32_t i = 0; i < NODES; ++i) {
      std::set<int32_t> a = targets[i];
      a.insert(i);
      for (const int32_t j : targets[i]) {
        std::set<int32_t> b = targets[j];
        b.insert(j);
        int64_t common = 0;
        for (const int32_t node : a) common += b.count(node);
        if (double(common) / double(std::min(a.size(), b.size())) <= threshold || labels[i] == labels[j]) continue;
        labels[i] = labels[j] = std::min(labels[i], labels[j]);
        changed = true;
      }
    }
  }
  return labels;
}

std::vector<int32_t> found(const std::vector<std::set<int32_t>>& targets, double threshold, int32_t threads) {
  std::vector<int64_t> starts{0};
  std::vector<int32_t> flat;
  for (const auto& of_node : targets) {
    flat.insert(flat.end(), of_node.begin(), of_node.end());
    starts.push_back(static_cast<int64_t>(flat.size()));
  }
  std::vector<int32_t> parent(NODES);
  std::iota(parent.begin(), parent.end(), 0);
  DisjointSets sets(parent.data());
  std::vector<std::thread> running;
  for (int32_t t = 0; t < threads; ++t) {
    running.emplace_back([&, t] {
      std::vector<uint64_t> bits(NODES / 64 + 1);
      const Graph graph{starts.data(), flat.data()};
      link_nodes(graph, threshold, NODES * t / threads, NODES * (t + 1) / threads, bits, sets);
    });
  }
  for (std::thread& thread : running) thread.join();
  std::vector<int32_t> labels(NODES);
  for (int32_t i = 0; i < NODES; ++i) labels[i] = sets.find(i);
  return labels;
}

}  // namespace

int main() {
  std::mt19937 random(7);
  for (int round = 0; round < 6; ++round) {
    const auto targets = draw(random);
    for (const double threshold : {0.2, 0.4, 0.6}) {
      const std::vector<int32_t> labels = expected(targets, threshold);
      for (const int32_t threads : {1, 2, 7}) {
        if (found(targets, threshold, threads) != labels) {
          std::printf("round %d, threshold %g, %d threads: other components\n", round, threshold, threads);
          return 1;
        }
      }
    }
  }
  return 0;
}
