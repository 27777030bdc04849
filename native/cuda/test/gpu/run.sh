#!/bin/sh
# Everything about the CUDA engine that can be checked on a GPU machine without Node. Needs g++, cmake and the CUDA toolkit (nvcc,
# compute-sanitizer), and NCCL for what takes two GPUs: native/cuda/test/gpu/run.sh [check|sanitize|rates]...   (default: all three)
#   check     kernels, pipelines and faults, also without peer access between the GPUs
#   sanitize  the kernels under compute-sanitizer: memcheck, racecheck, initcheck, synccheck
#   rates     pipelines against the H2D ceiling, the orders of H2D and broadcasts, with and without peer access, and pinning
set -eu
cd "$(dirname "$0")/../../../.."
build=${CKPT_GPU_CHECK_BUILD:-native/cuda/build/check}
cuda=${CUDA_HOME:-/usr/local/cuda}

say() { printf '\n== %s ==\n' "$*"; }

sanitizer() {
  tool=$(command -v compute-sanitizer || true)
  if [ -z "$tool" ] && [ -x "$cuda/bin/compute-sanitizer" ]; then tool=$cuda/bin/compute-sanitizer; fi
  if [ -z "$tool" ]; then
    echo "compute-sanitizer is missing: it comes with the CUDA toolkit (looked in PATH and $cuda/bin)" >&2
    exit 1
  fi
  for kind in memcheck racecheck initcheck synccheck; do
    say "compute-sanitizer $kind"
    CKPT_CHECK_QUICK=1 "$tool" --tool "$kind" --error-exitcode 9 "$build/cuda_check" kernels
  done
}

checks() {
  say "without a GPU"
  for test in schedule_test affinity_test direct_test; do
    # They are built where doctest is.
    if [ -x "$build/$test" ]; then "$build/$test"; else echo "$test: not built, doctest/doctest.h is missing (apt-get install doctest-dev)"; fi
  done
  say "kernels, pipelines, faults"
  CKPT_CHECK_QUICK=1 "$build/cuda_check" kernels random faults
  say "pipelines without peer access"
  NCCL_P2P_DISABLE=1 "$build/cuda_check" random
}

rates() {
  say "rates"
  "$build/cuda_check" rates orders pins
  say "rates without peer access"
  NCCL_P2P_DISABLE=1 "$build/cuda_check" orders
}

say "build in $build"
cmake -S native/cuda -B "$build" -DCKPT_ENGINE_ONLY=ON -DCMAKE_BUILD_TYPE=Release >/dev/null
cmake --build "$build" --parallel "$(nproc)" | tail -1
[ $# -gt 0 ] || set -- check sanitize rates
for part in "$@"; do
  case $part in
    check) checks ;;
    sanitize) sanitizer ;;
    rates) rates ;;
    *) echo "usage: $0 [check|sanitize|rates]..." >&2 && exit 2 ;;
  esac
done
say "all went well"
