// Numbers in memory as tensors keep them.
#pragma once

#include <cstdint>

namespace intraformer {

enum class Element : uint8_t { float32, bfloat16, float16, float64, byte, int64 };  // byte: bool and uint8

// Channel c of row r is number r * row + c * channel of `data`; strides may be 0 or negative.
struct Strided {
  const void* data;
  Element element;
  int64_t row, channel;
};

}  // namespace intraformer
