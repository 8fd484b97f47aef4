#!/usr/bin/env bash
# Every CUDA measurement of the project in one go, in less than nine minutes and without a network, on shards that it
# makes itself. JSON goes to $OUT (default: benchmarks/results); a short table comes last. What does not fit into BUDGET
# seconds is left out and named. Exit code 1 if a part fails.
#
#   PYTHON        the interpreter (python3)
#   DEVICE        cuda, or cpu for a reduced form that only shows that everything runs, and needs an OUT
#   FOOD101_64PX  a folder that `hub:` reads with Food-101 at 64 px; adds the comparison of accuracies
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
device=${DEVICE:-cuda}
out=${OUT:-benchmarks/results}
if [ "$device" = cpu ] && [ -z "${OUT:-}" ]; then
  echo "error: DEVICE=cpu measures nothing worth keeping; set OUT to a folder of its own" >&2
  exit 2
fi
budget=${BUDGET:-520}
if [ "$device" = cuda ] && ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "error: torch finds no CUDA device here; DEVICE=cpu OUT=DIR runs a reduced form" >&2
  exit 2
fi
if [ "$device" = cpu ]; then
  pictures=200 files=200 batch=16 workers=2 size=64 amp=off many=(mobilenet_v2:64)
  quick=(--repetitions 1) timed=(--seconds 0.02 --repetitions 1) staged=(--seconds 0.02 --repetitions 2)
  peers=(--only ours imagefolder --rounds 1 --repetitions 1) small=(--model shufflenet_v2_x0_5)
  models=(mobilenet_v2) steps=1 images=32
else
  pictures=1000 files=12000 batch=${BATCH:-512} workers=${WORKERS:-14} size=160 amp=fp16
  many=(mobilenet_v2:160 mobilenet_v2:224 resnet50:224 efficientnet_b3:224) few=(mobilenet_v2:160 resnet50:224)
  quick=(--repetitions 5) timed=(--seconds 0.1 --repetitions 5) staged=(--seconds 0.3 --repetitions 5)
  peers=(--rounds 2 --repetitions 2) small=()
  models=(mobilenet_v2 resnet50) steps=10 images=8192
fi
export PYTHONPATH=$PWD:$PWD/benchmarks${PYTHONPATH:+:$PYTHONPATH}
work=$(mktemp -d)
child=
trap 'rm -rf "$work"' EXIT
trap '[ -z "$child" ] || { kill "$child" && wait "$child"; } 2>/dev/null; exit 130' INT TERM
mkdir -p "$out"
failed=() left_out=()

# part NAME COMMAND...: run one, within what is left of the time.
part() {
  local name=$1 left=$((budget - SECONDS))
  shift
  if [ "$left" -lt 15 ]; then
    left_out+=("$name")
    return
  fi
  echo "== $name ($SECONDS s)"
  local code=0
  timeout "$left" "$@" &
  child=$!
  wait "$child" || code=$?
  if [ "$code" = 124 ]; then
    left_out+=("$name")
  elif [ "$code" != 0 ]; then
    failed+=("$name")
  fi
}

# The demo source has 1,000 pictures; they are repeated until an epoch is long enough to be timed.
quietly() { "$@" >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }; }
prepare="$python -m food101_fast.prepare"
quietly $prepare --source demo: --limit "$pictures" --size 256 --encoding jpeg --fractions 0.8 0.1 0.1 --out "$work/demo"
mkdir "$work/pictures"
for shard in "$work"/demo/*.tar; do
  tar -xf "$shard" -C "$work/pictures" --wildcards '*.jpg'
done
"$python" - "$work/pictures" "$work/many" "$files" <<'REPEAT'
import sys
from pathlib import Path

from photographs import repeat_files

repeat_files(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
REPEAT
for encoding in raw jpeg; do
  quietly $prepare --source "folder:$work/many" --size 192 --encoding "$encoding" --out "$work/$encoding"
done

part "loader to the device" "$python" benchmarks/device.py --raw "$work/raw" --jpeg "$work/jpeg" --device "$device" \
  --batch-size "$batch" "${timed[@]}" --json "$out/device-$device.json"
for model in "${models[@]}"; do
  part "stages, $model" "$python" -m food101_fast.bench --shards "$work/raw" --device "$device" --model "$model" \
    --image-size "$size" --batch-size "$batch" "${staged[@]}" --json "$out/stages-$model-$device.json"
done
part "training steps" "$python" benchmarks/steps.py --device "$device" --models "${many[@]}" --batch-sizes "$batch" \
  --amps "$amp" --steps "$steps" "${quick[@]}" --json "$out/steps-$device.json"
part "transforms" "$python" benchmarks/transforms.py --device "$device" --batch-size "$batch" "${timed[@]}" \
  --envs None --json "$out/transforms-$device.json"
part "whole pipelines" "$python" benchmarks/pipelines.py --source "$work/many" --device "$device" --images "$images" \
  --batch-size "$batch" --workers "$workers" "${small[@]}" "${quick[@]}" --json "$out/pipelines-$device.json"
if [ "$device" != cpu ]; then
  part "compiled training steps" "$python" benchmarks/steps.py --device "$device" --models "${few[@]}" \
    --batch-sizes "$batch" --amps fp16 --compiles on --steps "$steps" "${quick[@]}" --json "$out/steps-compiled-$device.json"
  part "training steps in bf16" "$python" benchmarks/steps.py --device "$device" --models "${few[@]}" \
    --batch-sizes "$batch" --amps bf16 --steps "$steps" "${quick[@]}" --json "$out/steps-bf16-$device.json"
fi
if [ -n "${FOOD101_64PX:-}" ]; then
  part "Food-101 at 64 px" $prepare --source "hub:$FOOD101_64PX" --size 64 --out "$work/64px"
  part "accuracy at 64 px" "$python" benchmarks/accuracy.py --shards "$work/64px" --device "$device" --batch-size 256 \
    --epochs 8 --workers "$workers" --json "$out/accuracy-$device.json" --plot "$out/accuracy-$device.png"
fi
part "loaders that are installed" "$python" benchmarks/peers.py --parts loading --photos "$work/pictures" \
  --files "$files" --work "$work/peers" --envs None --workers "$workers" \
  "${peers[@]}" --json "$out/peers-$device.json"
if [ "$device" != cpu ] && "$python" -c 'import pytest, hypothesis' 2>/dev/null; then
  part "tests on CUDA" "$python" -m pytest -q tests/loader/test_cuda.py tests/transforms/test_cuda.py \
    tests/train/test_cuda.py tests/bench/test_cuda.py
fi

[ ${#left_out[@]} = 0 ] || printf 'no time was left for: %s\n' "${left_out[@]}"
echo "== in short ($SECONDS s)"
"$python" benchmarks/summary.py --results "$out" --device "$device"
[ ${#failed[@]} = 0 ] || { printf 'failed: %s\n' "${failed[@]}"; exit 1; }
