#!/usr/bin/env bash
# Everything that only a GPU can show, in one command: builds kltui, runs the tests marked gpu, the kernels under NVIDIA's
# compute-sanitizer, and both benchmarks; writes all of it under OUT and prints one table. Needs nvcc, torch >= 2.8 and
# Python 3.11 to 3.13. Usage: bash tests/gpu/run.sh [OUT]     (default: gpu-results)
# KLTUI_PIP adds options to pip, such as "--no-build-isolation --no-index --find-links wheels" where there is no network.
set -uo pipefail
out=$(mkdir -p "${1:-gpu-results}" && cd "${1:-gpu-results}" && pwd)
cd "$(dirname "$0")/../.."
failed=

# One part: its name, a limit in seconds, and the command; output goes to OUT/name.log, what it came to into OUT/parts.txt.
part() {
    local name=$1 limit=$2 begun=$SECONDS code=0
    shift 2
    echo "== $name" >&2
    timeout "$limit" "$@" >"$out/$name.log" 2>&1 || code=$?
    echo "$name $code $((SECONDS - begun))" >>"$out/parts.txt"
    [ "$code" = 0 ] || { failed="$failed $name"; tail -n 15 "$out/$name.log" >&2; }
}

: >"$out/parts.txt"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader >"$out/card.txt" 2>/dev/null || true
# shellcheck disable=SC2086
part install 240 python -m pip install ${KLTUI_PIP:-} ".[test]"
part tests 240 python -m pytest -q -n 4 -m gpu tests
part sanitizer-build 120 nvcc -std=c++17 -arch=native -lineinfo -Icsrc/cuda -x cu tests/native/cuda_tests.cpp csrc/cuda/*.cu -o "$out/cuda_tests"
if command -v compute-sanitizer >/dev/null; then
    part memcheck 90 compute-sanitizer --tool memcheck --error-exitcode 9 "$out/cuda_tests"
    part racecheck 90 compute-sanitizer --tool racecheck --error-exitcode 9 "$out/cuda_tests"
fi
part bench-native 150 bash -c 'kltui --bench native --device cuda --json >"$1"' - "$out/native.json"
part bench 240 bash -c 'kltui --bench --device cuda --json >"$1"' - "$out/endtoend.json"
python tests/gpu/table.py "$out"
[ -z "$failed" ] || { echo "failed:$failed (see $out)" >&2; exit 1; }
