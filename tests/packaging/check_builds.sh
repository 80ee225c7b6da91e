#!/usr/bin/env bash
# Checks that one wheel serves every torch, and what a build does where a tool is missing.
#
#   tests/packaging/check_builds.sh [--keep FOLDER] [LEG...]
#
#   wheel         sdist, and from it a wheel: cp310-abi3, with the CPU library, the CUDA library (where nvcc is) and _build_info
#   cmake         the build on its own: cmake, ctest, install, find_package from another project, with CUDA where nvcc is
#   no-nvcc       a build without nvcc says so and has no CUDA library; of the CPU library it has what a processor other than x86 gets
#   no-compiler   without a C++ compiler: pure Python with one message, served by the reference; INTRAFORMER_NATIVE=ON fails
#   torch-2.13    the wheel under torch 2.13.0, a build without CUDA: imports, the CPU ops run
#   torch-2.14    the wheel under torch 2.14.1, a build with CUDA, no driver needed: the CUDA library loads and registers its
#                 operators as well. Downloads 3 GB, 6 GB on disk until its end
#   isolated      plain `pip install` of the sdist into an empty environment, which builds in isolation with a torch of its own:
#                 as much again, twice
#
# No LEG means all of them. --keep leaves sdist and wheel in FOLDER. PYTHON (python3) names the python to build with; it has
# torch >= 2.10, setuptools >= 77 and build. cmake and ninja come from PATH. TORCH_CPU (torch==2.13.0+cpu) is what torch-2.13 asks
# pip for: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu finds it.
set -euo pipefail

fail() {
  echo "check_builds.sh: $1" >&2
  exit 1
}

legs=(wheel cmake no-nvcc no-compiler torch-2.13 torch-2.14 isolated)
chosen=() keep=
while (($#)); do
  case $1 in
    --keep) keep=${2:?--keep needs a folder} && shift ;;
    --help) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" && exit ;;
    *) [[ " ${legs[*]} " == *" $1 "* ]] || fail "unknown leg '$1': there are ${legs[*]}" && chosen+=("$1") ;;
  esac
  shift
done
((${#chosen[@]})) || chosen=("${legs[@]}")

python=$(command -v "${PYTHON:-python3}") || fail "no ${PYTHON:-python3} on PATH; PYTHON names another python"
python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python")
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH

# --- what the legs share

# From a copy, so that the tree keeps no trace; git knows which files are the project's.
sdist=
make_sdist() {
  [[ -z $sdist ]] || return 0
  mkdir "$work/tree"
  git -C "$root" ls-files -z --cached --others --exclude-standard | (cd "$root" && xargs -0 ls -d 2>/dev/null) |
    tar -C "$root" -cf - -T - | tar -C "$work/tree" -xf -
  "$python" -m build --sdist --no-isolation --outdir "$work" "$work/tree" >"$work/sdist.log" 2>&1 || fail "$(cat "$work/sdist.log")"
  sdist=$(echo "$work"/*.tar.gz)
}

wheel=
make_wheel() {
  [[ -z $wheel ]] || return 0
  make_sdist
  INTRAFORMER_NATIVE=ON build_wheel "$work/wheel" || fail "$(cat "$work/wheel.log")"
  wheel=$(echo "$work"/wheel/*.whl)
}

# Leaves the wheel in FOLDER and the words of the build in FOLDER.log.
build_wheel() { # FOLDER
  "$python" -m pip wheel --verbose --no-build-isolation --no-deps --wheel-dir "$1" "$sdist" >"$1.log" 2>&1
}

holds() { # WHEEL FILE
  grep -q "^intraformer_fast/$2 " <<<"$("$python" -m zipfile --list "$1")"
}

# A folder of links to all programs on PATH but those whose name fits PATTERN.
path_without() { # FOLDER PATTERN
  local folders program
  mkdir "$1"
  IFS=: read -ra folders <<<"$PATH"
  for program in $(printf '%s/*\n' "${folders[@]}"); do
    # shellcheck disable=SC2053 # a pattern is meant
    [[ -x $program && ! -d $program && ${program##*/} != $2 && ! -e $1/${program##*/} ]] && ln -s "$program" "$1"
  done
  return 0
}

# Fails unless the package that PYTHON finds serves the loss as EXPECTED: reference, cpu (native), cuda (and CUDA's registered).
check_use() { # EXPECTED PYTHON
  (cd "$work" && "$2" - "$1" <<'CODE')
import sys

# An editable installation in this python must not lend the modules that the checked one lacks.
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", "")]

import torch

from intraformer_fast import functional, info, native, reference
from intraformer_fast.ops import routing

expected = sys.argv[1]
print(f"torch {torch.__version__}, CUDA {torch.version.cuda}: {info()['native']}")
logits, target = torch.randn(9, 300), torch.rand(9, 300) < 0.3
results = []
for op in (functional.purity_fmi, reference.purity_fmi):
    leaf = logits.clone().requires_grad_()
    loss, purity = op(leaf, target)
    (loss.sum() + purity.sum()).backward()
    results.append((loss, purity, leaf.grad))
torch.testing.assert_close(*results)
served = routing.select("purity_fmi", logits, target).__name__.split(".")[1]
assert served == ("reference" if expected == "reference" else "ops"), served
assert bool(native.NOT_LOADED["cpu"]) == (expected == "reference"), native.NOT_LOADED
assert bool(info()["native"]["build"]) == (expected != "reference")
assert bool(native.NOT_LOADED["cuda"]) == (expected != "cuda"), native.NOT_LOADED
on_cuda = torch._C._dispatch_has_kernel_for_dispatch_key("intraformer_fast::purity_fmi_forward", "CUDA") if served == "ops" else False
assert on_cuda == (expected == "cuda")
CODE
}

# The wheel under another torch, in an environment of its own.
check_torch() { # REQUIREMENT EXPECTED
  make_wheel
  holds "$wheel" _C_cuda.so || fail "this leg needs nvcc on PATH: the wheel has no CUDA library"
  "$python" -m venv "$work/venv"
  "$work/venv/bin/python" -m pip install --quiet --no-cache-dir "$1" "$wheel"
  check_use "$2" "$work/venv/bin/python"
  "$work/venv/bin/intraformer-fast" info
  rm -rf "$work/venv"
}

# --- the legs

leg_wheel() {
  make_wheel
  [[ $wheel == *-cp310-abi3-*.whl ]] || fail "$(basename "$wheel") is not a cp310-abi3 wheel"
  grep -h "intraformer-fast: " "$work/wheel.log"
  for file in _C_cpu.so _build_info.abi3.so $(command -v nvcc >/dev/null && echo _C_cuda.so); do
    holds "$wheel" "$file" || fail "$(basename "$wheel") has no $file"
  done
  [[ -z $keep ]] || { mkdir -p "$keep" && cp "$sdist" "$wheel" "$keep"; }
  echo "$(basename "$wheel"), $(du -k "$wheel" | cut -f1) KiB"
}

leg_cmake() {
  make_sdist
  mkdir "$work/standalone"
  tar -C "$work/standalone" --strip-components=1 -xzf "$sdist"
  (
    cd "$work/standalone"
    cmake -B build -DPython_EXECUTABLE="$python"
    cmake --build build --parallel 2
    ctest --test-dir build --no-tests=error --output-on-failure
  )
}

leg_no-nvcc() {
  make_sdist
  path_without "$work/no-nvcc-path" nvcc
  (
    unset CUDACXX CUDA_PATH CUDA_HOME CUDA_BIN_PATH
    PATH=$work/no-nvcc-path INTRAFORMER_X86=OFF INTRAFORMER_NATIVE=ON build_wheel "$work/no-nvcc"
  ) || fail "$(cat "$work/no-nvcc.log")"
  grep -h "intraformer-fast: CUDA library not built (no nvcc found" "$work/no-nvcc.log" || fail "the build gave no verdict on CUDA"
  holds "$work"/no-nvcc/*.whl _C_cpu.so || fail "the wheel has no CPU library"
  ! holds "$work"/no-nvcc/*.whl _C_cuda.so || fail "without nvcc there is a CUDA library"
  "$python" -m pip install --quiet --no-deps --target "$work/no-nvcc-site" "$work"/no-nvcc/*.whl
  PYTHONPATH=$work/no-nvcc-site check_use cpu "$python"
  (
    unset CUDACXX CUDA_PATH CUDA_HOME CUDA_BIN_PATH
    PATH=$work/no-nvcc-path INTRAFORMER_CUDA=ON build_wheel "$work/cuda-on"
  ) && fail "INTRAFORMER_CUDA=ON succeeded without nvcc"
  grep -h "INTRAFORMER_CUDA=ON, but no nvcc was found" "$work/cuda-on.log" || fail "INTRAFORMER_CUDA=ON failed without a reason"
}

leg_no-compiler() {
  local message="a C++20 compiler (g++ 11 or later or clang++ 14 or later; CXX names one)"
  make_sdist
  path_without "$work/no-compiler-path" '@(*c++*|*g++*|clang*|gcc*|cc|nvcc)'
  (
    unset CXX CUDACXX
    PATH=$work/no-compiler-path
    build_wheel "$work/pure" || fail "$(cat "$work/pure.log")"
    [[ $(grep -c "built without the native libraries, for lack of $message" "$work/pure.log") == 1 ]] ||
      fail "expected one message about the compiler: $(cat "$work/pure.log")"
    [[ $(echo "$work"/pure/*.whl) == *-py3-none-any.whl ]] || fail "without a compiler the wheel is one of a platform"
    INTRAFORMER_NATIVE=ON build_wheel "$work/native-on" && fail "INTRAFORMER_NATIVE=ON succeeded without a compiler"
    [[ $(grep -c "INTRAFORMER_NATIVE=ON, but this machine lacks $message" "$work/native-on.log") == 1 ]] ||
      fail "expected one message about the compiler: $(cat "$work/native-on.log")"
    "$python" -m pip install --quiet --no-deps --target "$work/pure-site" "$work"/pure/*.whl
    PYTHONPATH=$work/pure-site check_use reference "$python"
  )
}

leg_torch-2.13() {
  check_torch "${TORCH_CPU:-torch==2.13.0+cpu}" cpu
}

leg_torch-2.14() {
  check_torch torch==2.14.1 cuda
}

leg_isolated() {
  make_sdist
  "$python" -m venv "$work/venv"
  "$work/venv/bin/python" -m pip install --quiet --no-cache-dir "$sdist"
  local cuda
  cuda=$("$work/venv/bin/python" -c "import torch; print('cuda' if torch.version.cuda else 'cpu')")
  command -v nvcc >/dev/null || cuda=cpu
  check_use "$cuda" "$work/venv/bin/python"
  rm -rf "$work/venv"
}

for leg in "${chosen[@]}"; do
  echo "== $leg"
  start=$SECONDS
  "leg_$leg"
  echo "== $leg: passed in $((SECONDS - start)) s"
done
