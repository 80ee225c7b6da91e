// The CPU operators of intimacy: tensors in and out, the nodes shared out over PyTorch's threads.
#include <torch/csrc/stable/library.h>

#include <limits>
#include <numeric>
#include <vector>

#include "cpu/tensors.h"
#include "intimacy/op.h"

namespace intraformer::intimacy {
namespace {

// Nodes a thread takes at least.
constexpr int64_t GRAIN = 1024;

bool is_vector(const Tensor& t, ScalarType type) {
  return t.dim() == 1 && t.scalar_type() == type && t.is_contiguous() && t.is_cpu();
}

Graph checked(const Check& check, const Tensor& starts, const Tensor& targets) {
  check(is_vector(starts, ScalarType::Long) && starts.size(0) > 0, "starts is not a contiguous int64 [N + 1] on the CPU");
  check(is_vector(targets, ScalarType::Int), "targets is not a contiguous int32 [E] on the CPU");
  const int64_t nodes = starts.size(0) - 1;
  check(nodes <= std::numeric_limits<int32_t>::max(), "there are more nodes than int32 can number");
  const Graph graph{static_cast<const int64_t*>(starts.const_data_ptr()), static_cast<const int32_t*>(targets.const_data_ptr())};
  check(graph.starts[0] == 0 && graph.starts[nodes] == targets.size(0), "starts does not run from 0 to the number of edges");
  for (int64_t i = 0; i < nodes; ++i) check(graph.starts[i] <= graph.starts[i + 1], "starts does not rise");
  for (int64_t i = 0; i < nodes; ++i) {
    int64_t before = -1;
    for (int64_t e = graph.starts[i]; e < graph.starts[i + 1]; before = graph.targets[e++]) {
      check(graph.targets[e] > before && graph.targets[e] < nodes, "the targets of a node are not rising ids of nodes");
      check(graph.targets[e] != i, "a node has an edge to itself");
    }
  }
  return graph;
}

// The lowest node of each component, link(begin, end, sets) merging what the edges of those nodes link.
template <typename Link>
Tensor components(const Tensor& targets, int64_t nodes, const Link& link) {
  const Tensor labels = new_empty(targets, {nodes});
  int32_t* const parent = static_cast<int32_t*>(labels.mutable_data_ptr());
  std::iota(parent, parent + nodes, 0);
  DisjointSets sets(parent);
  torch::stable::parallel_for(0, nodes, GRAIN, [&](int64_t begin, int64_t end) { link(begin, end, sets); });
  for (int64_t i = 0; i < nodes; ++i) parent[i] = sets.find(i);
  return labels;
}

Tensor intimacy_components(const Tensor& starts, const Tensor& targets, double threshold) {
  const Graph graph = checked(Check{"intimacy_components"}, starts, targets);
  const int64_t nodes = starts.size(0) - 1;
  return components(targets, nodes, [&](int64_t begin, int64_t end, DisjointSets& sets) {
    std::vector<uint64_t> bits(nodes / 64 + 1);
    link_nodes(graph, threshold, begin, end, bits, sets);
  });
}

Tensor edge_components(const Tensor& starts, const Tensor& targets, bool mutual) {
  const Graph graph = checked(Check{"edge_components"}, starts, targets);
  return components(targets, starts.size(0) - 1, [&](int64_t begin, int64_t end, DisjointSets& sets) {
    link_all(graph, mutual, begin, end, sets);
  });
}

}  // namespace
}  // namespace intraformer::intimacy

STABLE_TORCH_LIBRARY_IMPL(intraformer_fast, CPU, library) {
  library.impl("intimacy_components", TORCH_BOX(&intraformer::intimacy::intimacy_components));
  library.impl("edge_components", TORCH_BOX(&intraformer::intimacy::edge_components));
}
