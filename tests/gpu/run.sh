#!/usr/bin/env bash
# Everything that only a GPU can show, in one command of less than 9 minutes: builds kltui, runs the tests marked gpu, the
# kernels under NVIDIA's compute-sanitizer, and both benchmarks; writes all of it under OUT and prints one table. Needs nvcc,
# torch >= 2.8 and Python 3.11 to 3.13. Usage: bash tests/gpu/run.sh [OUT]     (default: gpu-results)
# KLTUI_PIP adds options to pip, such as "--no-build-isolation --no-index --find-links wheels" where there is no network.
set -uo pipefail
out=$(mkdir -p "${1:-gpu-results}" && cd "${1:-gpu-results}" && pwd)
cd "$(dirname "$0")/../.."
whole=525 # seconds, for all of it: the table takes a moment more
rm -f "$out"/{parts.txt,card.txt,native.json,endtoend.json,table.md}

# One part: its name, a limit in seconds, and the command; output goes to OUT/name.log, what it came to into OUT/parts.txt.
part() {
    local name=$1 limit=$2 begun=$SECONDS code=0
    shift 2
    [ "$limit" -le $((whole - SECONDS)) ] || limit=$((whole - SECONDS))
    echo "== $name" >&2
    if [ "$limit" -gt 0 ]; then
        timeout -k 5 "$limit" "$@" >"$out/$name.log" 2>&1 || code=$?
    else
        code=124
        echo "no time was left for it" >"$out/$name.log"
    fi
    echo "$name $code $((SECONDS - begun))" >>"$out/parts.txt"
    [ "$code" = 0 ] || tail -n 15 "$out/$name.log" >&2
}

# What needs no more than the sources, beside the installation; and beside the tests, which leave the GPU idle mostly.
build_sanitized() {
    part sanitizer-build 130 nvcc -std=c++17 -arch=native -lineinfo -Icsrc/cuda -x cu tests/kernels/cuda_tests.cpp csrc/cuda/*.cu -o "$out/cuda_tests"
}
sanitize() {
    part memcheck 65 compute-sanitizer --tool memcheck --error-exitcode 9 "$out/cuda_tests"
    part racecheck 65 compute-sanitizer --tool racecheck --error-exitcode 9 "$out/cuda_tests"
}

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader >"$out/card.txt" 2>/dev/null || true
export PATH="$PATH:$(dirname "$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)")" HF_HUB_OFFLINE=1
build_sanitized &
# shellcheck disable=SC2086
part install 140 python -m pip install ${KLTUI_PIP:-} ".[test,quant]"
wait
sanitize &
# Collected from the files that have such tests; shared out one by one, not by file.
# shellcheck disable=SC2046
part tests 140 python -m pytest -q -n auto --maxprocesses=8 --dist=worksteal -m gpu --durations=10 $(grep -rl 'mark\.gpu' tests --include='test_*.py')
wait
part bench-native 85 bash -c 'kltui --bench native --device cuda --json >"$1"' - "$out/native.json"
part bench 160 bash -c 'kltui --bench --device cuda --json >"$1"' - "$out/endtoend.json"
python tests/gpu/table.py "$out"
failed=$(awk '$2 != 0 {printf " %s", $1}' "$out/parts.txt")
[ -z "$failed" ] || { echo "failed:$failed (see $out)" >&2; exit 1; }
