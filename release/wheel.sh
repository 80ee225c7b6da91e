#!/usr/bin/env bash
# Makes in dist/ what a release uploads: sdist, manylinux wheel, and the wheel's parts and licenses as CycloneDX (sbom.json).
#
#   release/wheel.sh        (make wheel calls it, with all it needs installed)
#
# The wheel is of this tree and built in INTRAFORMER_BUILD_DIR, so that what is compiled already stays. It holds neither torch's
# libraries nor CUDA's: they come with the torch that it is installed beside. auditwheel says how old a glibc it runs on, which the
# compiler's machine decides.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
  echo "wheel.sh: $1" >&2
  exit 1
}

python=${PYTHON:-python3}
most_mib=20 # a release larger than this carries what it should not

# What setuptools gathered for another wheel would go into this one.
rm -rf dist build/lib* build/bdist* && mkdir dist
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" -m build --sdist --no-isolation --outdir dist . >"$work/log" 2>&1 || fail "$(cat "$work/log")"
INTRAFORMER_NATIVE=ON "$python" -m pip wheel --verbose --no-build-isolation --no-deps --wheel-dir "$work" . >"$work/log" 2>&1 ||
  fail "$(cat "$work/log")"
grep -h "intraformer-fast: " "$work/log" || true

"$python" -m auditwheel repair --wheel-dir dist \
  --exclude 'libtorch*.so*' --exclude 'libc10*.so*' --exclude 'libcuda.so*' --exclude 'libcudart.so*' "$work"/*.whl >"$work/log" 2>&1 ||
  fail "$(cat "$work/log")"
wheel=$(echo dist/*.whl)
[[ $wheel == *-cp310-abi3-manylinux_*.whl ]] || fail "$(basename "$wheel") is no cp310-abi3 wheel of manylinux"
"$python" -m zipfile --list "$wheel" | grep -E "\.libs/|libtorch|libcud" && fail "the wheel holds libraries of others"

"$python" -m twine check --strict dist/*.tar.gz dist/*.whl
"$python" release/sbom.py "$wheel" dist/sbom.json
for file in dist/*; do
  bytes=$(stat -c %s "$file")
  awk -v bytes="$bytes" -v name="$(basename "$file")" 'BEGIN { printf "%s: %.1f MiB\n", name, bytes / 2^20 }'
  ((bytes < most_mib * 2 ** 20)) || fail "$(basename "$file") has $bytes bytes: expected less than $most_mib MiB"
done
