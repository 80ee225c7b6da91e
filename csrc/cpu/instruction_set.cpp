#include "cpu/instruction_set.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace intraformer {
namespace {

constexpr InstructionSet BEST_FIRST[] = {
    InstructionSet::avx512_bf16, InstructionSet::avx512_vnni, InstructionSet::avx512, InstructionSet::avx2,
    InstructionSet::generic};

bool usable(InstructionSet set) {
#ifdef INTRAFORMER_X86
  // The features that the build turns on for a set (CMakeLists.txt), each of them: they do not imply one another.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (set == InstructionSet::avx2) return avx2;
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (set == InstructionSet::avx512) return avx512;
  const bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");
  if (set == InstructionSet::avx512_vnni) return vnni;
  if (set == InstructionSet::avx512_bf16) return vnni && __builtin_cpu_supports("avx512bf16");
#endif
  return set == InstructionSet::generic;
}

InstructionSet decide() {
  const char* wanted = std::getenv("INTRAFORMER_CPU_ISA");
  const bool free = wanted == nullptr || *wanted == '\0';
  std::string names;
  for (const InstructionSet set : BEST_FIRST) {
    if (!usable(set)) continue;
    if (free || std::string(wanted) == name(set)) return set;
    names += (names.empty() ? "" : ", ") + std::string(name(set));
  }
  throw std::invalid_argument("INTRAFORMER_CPU_ISA = '" + std::string(wanted) + "': this build on this processor has " + names);
}

}  // namespace

InstructionSet instruction_set() {
  static const InstructionSet decided = decide();
  return decided;
}

const char* name(InstructionSet set) {
  switch (set) {
    case InstructionSet::avx512_bf16: return "avx512_bf16";
    case InstructionSet::avx512_vnni: return "avx512_vnni";
    case InstructionSet::avx512: return "avx512";
    case InstructionSet::avx2: return "avx2";
    case InstructionSet::generic: return "generic";
  }
  return "unknown";
}

}  // namespace intraformer
