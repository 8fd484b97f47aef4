#!/usr/bin/env bash
# Every CUDA measurement of the project in one go, without a network, on shards that it makes itself. JSON goes to $OUT
# (default: benchmarks/results), and PYTHON names the interpreter. FOOD101_64PX, a folder that `hub:` reads with Food-101
# at 64 px, adds the comparison of accuracies.
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
  "$python" -m pytest -q tests/loader/test_cuda.py tests/transforms/test_cuda.py tests/train/test_cuda.py | tee "$out/tests-$device.txt" || true
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
echo "== training steps on a fixed batch"
"$python" benchmarks/steps.py --device "$device" --models mobilenet_v2:160 mobilenet_v2:224 resnet50:224 \
  efficientnet_b3:224 --batch-sizes "${BATCH:-512}" --amps fp16 --compiles off on --steps "${STEPS:-10}" \
  --repetitions 5 --json "$out/steps-fp16-$device.json"
"$python" benchmarks/steps.py --device "$device" --models mobilenet_v2:160 resnet50:224 \
  --batch-sizes "${BATCH:-512}" --amps bf16 --compiles off on --steps "${STEPS:-10}" --repetitions 5 \
  --json "$out/steps-bf16-$device.json"
if [ -n "${FOOD101_64PX:-}" ]; then
  echo "== accuracy at 64 px"
  "$python" -m food101_fast.prepare --source "hub:$FOOD101_64PX" --size 64 --out "$work/64px" >/dev/null 2>&1
  "$python" benchmarks/accuracy.py --shards "$work/64px" --device "$device" --batch-size 256 --epochs 8 --workers 14 \
    --json "$out/accuracy-$device.json" --plot "$out/accuracy-$device.png"
fi
git rev-parse HEAD >"$out/commit-$device.txt" 2>/dev/null || true
