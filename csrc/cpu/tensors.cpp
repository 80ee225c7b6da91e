#include "cpu/tensors.h"

#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>

namespace intraformer {

void Check::operator()(bool good, std::string_view message) const {
  if (!good) throw std::invalid_argument(std::string(op) + ": " + std::string(message));
}

std::optional<Element> element_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return Element::float32;
    case ScalarType::BFloat16: return Element::bfloat16;
    case ScalarType::Half: return Element::float16;
    case ScalarType::Double: return Element::float64;
    case ScalarType::Bool:
    case ScalarType::Byte: return Element::byte;
    case ScalarType::Long: return Element::int64;
    default: return std::nullopt;
  }
}

bool is_mask(const Tensor& tensor, int64_t rows, int64_t columns) {
  return tensor.is_cpu() && tensor.scalar_type() == ScalarType::Bool && tensor.dim() == 2 && tensor.size(0) == rows &&
         tensor.size(1) == columns;
}

namespace {

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

}  // namespace

void* scratch(int64_t bytes) {
  thread_local std::unique_ptr<void, Free> memory;
  thread_local int64_t size = 0;
  if (size < bytes) {
    memory.reset();
    size = 0;
    memory.reset(std::aligned_alloc(64, bytes));  // bytes is a multiple of 64
    if (memory == nullptr) throw std::bad_alloc();
    std::memset(memory.get(), 0, bytes);
    size = bytes;
  }
  return memory.get();
}

}  // namespace intraformer
