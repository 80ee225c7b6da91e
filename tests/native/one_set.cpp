// Runs a test that is compiled for the instruction set INTRAFORMER_CPU_ISA; 77 is returned where that cannot be used.
#include <cstdio>
#include <stdexcept>

#include "cpu/instruction_set.h"

int test_one_set();

int main() {
  try {
    std::printf("instruction set %s\n", intraformer::name(intraformer::instruction_set()));
  } catch (const std::invalid_argument& error) {
    std::printf("not here: %s\n", error.what());
    return 77;
  }
  return test_one_set();
}
