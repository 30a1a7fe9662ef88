#!/bin/sh
# Builds the kernels and their native tests with AddressSanitizer and UndefinedBehaviorSanitizer and runs them for every
# instruction set of this processor and, emulated, for CUDA, then shows that planted overflows are caught.
# Usage: tests/kernels/sanitize.sh [BUILD_FOLDER]     (default: build/sanitize)
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
build=${1:-"$root/build/sanitize"}
cmake -S "$root" -B "$build" -DKLTUI_SANITIZE=ON -DKLTUI_CUDA=OFF -DCMAKE_BUILD_TYPE=RelWithDebInfo
cmake --build "$build" --target native_tests cuda_tests -j2
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
for isa in portable avx2 avx512 amx; do
    if KLTUI_ISA=$isa "$build/native_tests" probe >/dev/null 2>&1; then
        KLTUI_ISA=$isa "$build/native_tests"
    else
        echo "native tests, $isa: this processor has none, left out"
    fi
done
"$build/cuda_tests"
for program in native_tests cuda_tests; do
    if "$build/$program" plant 2>"$build/planted.log"; then
        echo "a planted overflow in $program went unnoticed" >&2
        exit 1
    fi
    grep -m1 'heap-buffer-overflow' "$build/planted.log"
done
echo "sanitizers: clean, and the planted overflows were caught"
