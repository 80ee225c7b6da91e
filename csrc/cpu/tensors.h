// What the CPU operators ask of their tensors, and the memory of the threads that they run on. For the cpu.cpp of a room; what is
// compiled once per instruction set knows no tensors.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <string_view>

#include "cpu/strided.h"

namespace intraformer {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Refuses a call of an operator, in its name. std::invalid_argument reaches Python as ValueError.
struct Check {
  const char* op;
  void operator()(bool good, std::string_view message) const;
};

// None where a dtype is none of those of Element.
std::optional<Element> element_of(const Tensor& tensor);

// Whether a tensor is bool [rows, columns] on the CPU, as masks are.
bool is_mask(const Tensor& tensor, int64_t rows, int64_t columns);

// A thread's own scratch memory, at a multiple of 64, zero before its first use, and kept from call to call.
void* scratch(int64_t bytes);

// Calls run(task, scratch memory of so many bytes) for every task, shared out over PyTorch's threads; a thread takes `grain` at least.
template <typename Run>
void for_each_task(int64_t tasks, int64_t grain, int64_t bytes, const Run& run) {
  torch::stable::parallel_for(0, tasks, grain, [&](int64_t begin, int64_t end) {
    void* const memory = bytes == 0 ? nullptr : scratch(bytes);
    for (int64_t task = begin; task < end; ++task) run(task, memory);
  });
}

}  // namespace intraformer
