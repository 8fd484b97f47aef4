#!/usr/bin/env bash
# Every CUDA measurement of the project in one go, without a network, on shards that it makes itself. JSON goes to $OUT
# (default: benchmarks/results), and PYTHON names the interpreter. Takes less than nine minutes on 16 cores.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
out=${OUT:-benchmarks/results}
device=${DEVICE:-cuda}
files=${FILES:-12000}
export PYTHONPATH=$PWD:$PWD/benchmarks${PYTHONPATH:+:$PYTHONPATH}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out" "$work/pictures"

# The demo source has 1,000 pictures; they are repeated until an epoch is long enough to be timed.
"$python" -m food101_fast.prepare --source demo: --size 256 --encoding jpeg --out "$work/demo" >/dev/null 2>&1
for shard in "$work"/demo/*.tar; do
  tar -xf "$shard" -C "$work/pictures" --wildcards '*.jpg'
done
"$python" -c 'import sys; from pathlib import Path; from photographs import repeat_files
repeat_files(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))' "$work/pictures" "$work/many" "$files"
for encoding in raw jpeg; do
  "$python" -m food101_fast.prepare --source "folder:$work/many" --size 192 --encoding "$encoding" \
    --out "$work/$encoding" >/dev/null 2>&1
done

if "$python" -c 'import pytest, hypothesis' 2>/dev/null; then
  "$python" -m pytest -q tests/loader/test_cuda.py tests/transforms/test_cuda.py | tee "$out/tests-$device.txt" || true
fi
echo "== loader to the device"
"$python" benchmarks/device.py --raw "$work/raw" --jpeg "$work/jpeg" --device "$device" --json "$out/device-$device.json"
echo "== transforms"
"$python" benchmarks/transforms.py --device "$device" --batch-size "${BATCH:-512}" --json "$out/transforms-$device.json"
for model in mobilenet_v2 resnet50; do
  echo "== stages, $model"
  "$python" -m food101_fast.bench --shards "$work/raw" --device "$device" --model "$model" \
    --batch-size "${BATCH:-512}" --json "$out/stages-$model-$device.json"
done
git rev-parse HEAD >"$out/commit-$device.txt" 2>/dev/null || true
