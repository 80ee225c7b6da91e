#!/usr/bin/env bash
# For whoever has a GPU for ten minutes: builds intraformer-fast with the torch, nvcc and C++ compiler that are there, runs the GPU
# tests, the benchmarks and compute-sanitizer, and leaves one small archive of results. It downloads nothing and installs nothing
# outside a temporary folder. A step that fails is recorded and the others still run; the exit code is 1 if any failed.
#
#   bench/gpu_run.sh [--dry-run] [--minutes N] [--output FOLDER]
#
#   --dry-run   the same on the CPU: a few CPU tests, the quick benchmarks, no compute-sanitizer
#   --minutes   when to stop (10); what has not run by then is recorded as such
#   --output    where the archive goes (the current folder)
#
# PYTHON names the python that has torch >= 2.10 (python3). With INTRAFORMER_CUDA=OFF a dry run builds without nvcc.
set -uo pipefail

usage_error() {
  echo "gpu_run.sh: $1" >&2
  exit 2
}

device=cuda minutes=10 output=.
while (($#)); do
  case $1 in
    --dry-run) device=cpu ;;
    --minutes) minutes=${2:-} && shift ;;
    --output) output=${2:-} && shift ;;
    --help) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" && exit ;;
    *) usage_error "unknown option '$1'; --help names those there are" ;;
  esac
  shift
done
[[ $minutes =~ ^[0-9]+$ ]] || usage_error "--minutes '$minutes': expected a whole number"
if ! mkdir -p "$output"; then usage_error "--output '$output': no folder can be made there"; fi
output=$(cd "$output" && pwd)
PATH=$PATH:/usr/local/cuda/bin # where CUDA is installed and often not named
python=$(command -v "${PYTHON:-python3}") || usage_error "no ${PYTHON:-python3} on PATH; PYTHON names another python"
python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python")
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

name=intraformer-fast-gpu-results-$(date -u +%Y%m%dT%H%M%SZ)
work=$(mktemp -d)
results=$work/$name
mkdir "$results"
failures=0 running=

record() { # STEP SECONDS WORDS
  printf '%-20s%5s s  %s\n' "$@" | tee -a "$results/summary.txt"
}

finish() {
  if [[ -n $running ]]; then
    kill "$running"
    record interrupted "$SECONDS" "FAILED: what follows did not run"
    failures=1
  fi
  tar -C "$work" -czf "$output/$name.tar.gz" "$name"
  rm -rf "$work"
  echo "$failures failed; results: $output/$name.tar.gz ($(du -k "$output/$name.tar.gz" | cut -f1) KiB)"
  exit $((failures > 0))
}
trap finish EXIT
trap exit INT TERM HUP

# Runs a function of this file within its own and the whole run's time; its words go to STEP.log.
step() { # STEP SECONDS FUNCTION ARGUMENTS...
  local step=$1 limit=$2 left=$((minutes * 60 - SECONDS)) start=$SECONDS code=0 words=passed
  shift 2
  if ((left <= 0)); then
    words="FAILED: not run, the $minutes minutes were over"
  else
    limit=$((limit < left ? limit : left))
    # In the background and waited for, so that Ctrl-C is answered at once.
    timeout --kill-after=10 "$limit" bash -uc '"$@"' bash "$@" >"$results/$step.log" 2>&1 </dev/null &
    running=$!
    wait "$running" || code=$?
    running=
    case $code in
      0) ;;
      124 | 137) words="FAILED: stopped after $limit s" ;;
      *) words="FAILED: exit code $code" ;;
    esac
  fi
  record "$step" $((SECONDS - start)) "$words"
  [[ $words == passed ]] && return
  failures=$((failures + 1))
  [[ -e $results/$step.log ]] && tail -n 6 "$results/$step.log" | sed 's/^/    /'
}

versions() {
  local command
  for command in "git -C $root log -1 --format=%H%n%cI" "git -C $root status --short" lscpu nvidia-smi "nvcc --version" "c++ --version" \
    "cmake --version" "ninja --version" "compute-sanitizer --version" "$python -m pip list"; do
    printf '\n$ %s\n' "$command"
    # shellcheck disable=SC2086  # a command and its arguments
    $command 2>&1 || echo "(exit code $?)"
  done
}

# Names all that is missing, where a build or a test would name the first.
requirements() {
  "$python" - "$root" "$device" <<'PYTHON'
import ast
import importlib.metadata
import re
import shutil
import subprocess
import sys
from pathlib import Path


def numbers(version):
    return [int(n) for n in re.findall(r"\d+", version)[:3]]


root, device = sys.argv[1:]
settings = Path(root, "pyproject.toml").read_text()
lists = re.findall(r"^(?:requires|dependencies) = (\[.*?\])", settings, re.MULTILINE | re.DOTALL)
missing = []
for need in [*sum(map(ast.literal_eval, lists), []), "pytest>=8"]:
    name, least = need.split(">=")
    try:
        have = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        have = "0 (none)"
    if numbers(have) < numbers(least):
        missing.append(f"python package {need}, there is {have}")
tools = {"cmake": "cmake 3.22 or later", "c++": "a C++20 compiler (g++ 11 or later, clang++ 14 or later)"}
if device == "cuda":
    tools["nvcc"] = "nvcc 12.8 or later"
    import torch

    if not torch.cuda.is_available():
        missing.append(f"a GPU that torch {torch.__version__} can use")
    if shutil.which("nvcc"):
        release = re.search(r"release ([\d.]+)", subprocess.run(["nvcc", "--version"], capture_output=True, text=True).stdout)[1]
        if numbers(release) < [12, 8]:
            missing.append(f"nvcc 12.8 or later (for sm_100), there is {release}")
missing += [words for tool, words in tools.items() if not shutil.which(tool)]
print("\n".join(f"missing: {words}" for words in missing) or "nothing is missing")
sys.exit(bool(missing))
PYTHON
}

build() {
  mkdir "$work/source"
  (cd "$root" && cp -r CMakeLists.txt LICENSE MANIFEST.in README.md bench cmake csrc intraformer_fast kernels pyproject.toml setup.py \
    "$work/source")
  rm -f "$work/source"/intraformer_fast/_*.so
  [[ $device == cpu ]] || export INTRAFORMER_CUDA=ON
  INTRAFORMER_NATIVE=ON "$python" -m pip install --verbose --no-index --no-build-isolation --no-deps --target "$work/site" "$work/source"
}

# What was just built must be what the later steps load, and it must load.
info() {
  "$python" - "$work/site" "$device" <<'PYTHON'
import json
import sys
from pathlib import Path

import intraformer_fast
from intraformer_fast import native

site, device = sys.argv[1:]
print(json.dumps(intraformer_fast.info(), indent=2))
if Path(site) not in Path(intraformer_fast.__file__).parents:
    sys.exit(f"intraformer_fast was loaded from {intraformer_fast.__file__}: it is not what this run built")
sys.exit("; ".join(native.NOT_LOADED["cpu"] + (native.NOT_LOADED["cuda"] if device == "cuda" else [])) or 0)
PYTHON
}

# Without the plug-ins that the settings of the project ask for: they may be absent here, and no GPU test needs one.
run_pytest() { # [BEFORE...] -- ARGUMENTS...
  local before=()
  while [[ $1 != -- ]]; do before+=("$1") && shift; done
  shift
  "${before[@]}" "$python" -m pytest -c "$root/pyproject.toml" --rootdir "$root" -o addopts= --import-mode=importlib -p no:cacheprovider "$@"
}

test_files() { # MARK
  grep -rlw --include='test_*.py' "pytest.mark.$1" "$root/tests"
}

tests() {
  local files
  if [[ $device == cuda ]]; then
    mapfile -t files < <(test_files gpu)
    run_pytest -- --continue-on-collection-errors -ra --durations=10 --junitxml="$results/tests.xml" -m gpu "${files[@]}"
  else
    run_pytest -- -ra --junitxml="$results/tests.xml" "$root/tests/opcheck/test_purity_fmi.py" -k "gradient or bad_calls"
  fi
}

# Small cases, and our own kernels: with torch's it would take far longer. One allocation a tensor, or reading past one goes unseen.
sanitizer() { # TOOL
  local files
  mapfile -t files < <(test_files sanitizer)
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 run_pytest \
    compute-sanitizer --tool "$1" --kernel-regex kns=intraformer --print-limit 20 --error-exitcode 99 -- -m sanitizer "${files[@]}"
}

benchmarks() {
  local quick=()
  [[ $device == cuda ]] || quick=(purity_fmi --quick)
  "$python" "$work/site/bin/intraformer-fast" bench --device "$device" "${quick[@]}" --output "$results/bench"
}

cd "$work" || exit # away from the sources: the folder of the package there would be imported
export PYTHONPATH=$work/site${PYTHONPATH:+:$PYTHONPATH} PYTHONDONTWRITEBYTECODE=1 root work results device python
export -f versions requirements build info run_pytest test_files tests sanitizer benchmarks
step versions 60 versions
step requirements 60 requirements
step build 420 build
step info 60 info
step tests 180 tests
step bench 240 benchmarks
for tool in memcheck racecheck initcheck; do
  if command -v compute-sanitizer >/dev/null && [[ $device == cuda ]]; then
    step "sanitizer-$tool" 120 sanitizer "$tool"
  else
    record "sanitizer-$tool" 0 "skipped: $([[ $device == cuda ]] && echo compute-sanitizer is not present || echo a dry run is on the CPU)"
  fi
done
