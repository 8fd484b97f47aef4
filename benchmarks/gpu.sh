#!/usr/bin/env bash
# What a GPU is needed for, the most important first, in less than seven minutes, without a network, on shards that it
# makes itself.
#
#   benchmarks/gpu.sh [PART...]        all parts, or those named; shards are prepared if a part needs them
#
#   prepare       a data set of 101,000 files, beside the tests
#   tests         the CUDA tests (where pytest and hypothesis are installed; on half of the cores where pytest-xdist is)
#   job           the notebook's job with `train`, from the command to the last checkpoint
#   steps         MobileNetV2's training step: eager and as a CUDA graph; bare, timm's, torchvision's
#   device        shards to the device against the bus; nvJPEG where torchcodec is installed
#   speedrun      seconds to a target accuracy, where FOOD101_64PX is set
#   presets       crop + flip and the presets, eager and compiled, against others
#   bench         each stage of a step, and what bounds it
#   job-variants  the notebook's job with cuDNN's search, and compiled
#   compiled      MobileNetV2's training step, compiled: ours and the others'
#   resnet50      ResNet-50's training step
#   accuracy      learning curves against a plain loop, where FOOD101_64PX is set
#
# Every row is appended to OUT/gpu-DEVICE.jsonl as it is measured, so that an end at any moment loses none. At the end,
# and when the script is interrupted, they are merged into OUT/gpu-DEVICE.json and shown; after a harder end
# `benchmarks/summary.py --rows OUT/gpu-DEVICE.jsonl --json FILE` does that. What the parts say is in OUT/*.log. A part
# that is run again replaces its rows. Exit code 1 if a part fails.
#
#   PYTHON               the interpreter (python3)
#   DEVICE               cuda, or cpu for a reduced form that only shows that everything runs
#   OUT                  folder for the results (build/gpu)
#   BUDGET               seconds for everything (400); each part's own limit grows and shrinks with it
#   WORK                 folder for shards and runs, kept for the next run; by default a temporary one, in memory where
#                        there is enough of it
#   WHEELS               folder of wheels to install for this run, see gpu-wheels.sh (build/wheels)
#   REPETITIONS          of each measurement (5; with DEVICE=cpu 1)
#   FOOD101_64PX         a folder that `prepare --source hub:` reads with Food-101 at 64 px
#   SPEEDRUN             further flags of speedrun.py, such as --weights FILE
#   FOOD101_FAST_COMMIT  the commit, for a copy of the project without .git
set -euo pipefail
case ${1:-} in
  -h | --help)
    sed -n '2,/^set -euo/ { /^#/ s/^# \{0,1\}//p }' "$0"
    exit 0
    ;;
esac
set -m # each part is a group of processes, which is ended as a whole
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
device=${DEVICE:-cuda}
out=${OUT:-build/gpu}
budget=${BUDGET:-400}
everything=(prepare tests job steps device speedrun presets bench job-variants compiled resnet50 accuracy)
wanted=("$@")
[ ${#wanted[@]} != 0 ] || wanted=("${everything[@]}")
for name in "${wanted[@]}"; do
  if [[ " ${everything[*]} " != *" $name "* ]]; then
    echo "error: there is no part $name; choose from: ${everything[*]}" >&2
    exit 2
  fi
done
if [ "$device" = cuda ] && ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "error: torch finds no CUDA device here; DEVICE=cpu runs a reduced form" >&2
  exit 2
fi

cores=$(getconf _NPROCESSORS_ONLN)
testers=$(((cores + 1) / 2))
if [ "$device" = cpu ]; then
  need=2
  data=(--pictures 100 --files 600 --few 200 --classes 10 --size 64)
  step=(--models mobilenet_v2:32 --batch-sizes 8 --amps off --modes eager cuda-graph --steps 1)
  compiled=(--models mobilenet_v2:32 --batch-sizes 2 --amps off --modes compiled-graph --steps 1)
  resnet=(--models resnet50:32 --batch-sizes 2 --amps off --modes eager --steps 1)
  job=(--model shufflenet_v2_x0_5 --image-size 32 --batch-size 16 --epochs 2)
  preset=(--batch-sizes 8 --batches 1)
  load=(--batch-size 16)
  whole=(--model shufflenet_v2_x0_5 --image-size 32 --batch-size 8 --budget 20)
  run=(--weights none --model shufflenet_v2_x0_5 --image-size 32 --start-size None --batch-size 8 --epochs 1 --seeds 2)
  learn=(--model shufflenet_v2_x0_5 --image-size 32 --batch-size 8 --epochs 1 --seeds 2 --workers 1)
  variants=(--variants eager cuda-graph)
  tests=(tests/*/test_cuda*.py)
  repetitions=${REPETITIONS:-1}
else
  need=24
  data=(--pictures 1000 --files 101000 --few 12000 --classes 101 --size 192)
  step=(--models mobilenet_v2:160 --batch-sizes 512 128 --modes eager cuda-graph --amps fp16 --steps 10)
  compiled=(--models mobilenet_v2:160 --batch-sizes 128 512 --modes compiled-graph compiled reduce-overhead)
  compiled+=(--others compiled --amps fp16 --steps 10)
  resnet=(--models resnet50:224 --batch-sizes 256 --modes eager cuda-graph --amps fp16 --steps 10)
  job=(--model mobilenet_v2 --image-size 160 --batch-size 128 --epochs 7)
  preset=(--batch-sizes 512 128 --batches 10)
  load=(--batch-size 512)
  whole=(--model mobilenet_v2 --image-size 160 --batch-size 128 --budget 40)
  run=(--weights none)
  learn=(--image-size 64 --batch-size 256 --epochs 8 --seeds 2 --workers "$((cores - 2))")
  variants=(--variants search compiled-graph)
  mapfile -t tests < <(grep -l "cuda_device\|test_cuda_graph import" tests/*/test_*.py)
  tests+=(-m "cuda and not slow")
  repetitions=${REPETITIONS:-5}
fi

mkdir -p "$out"
out=$(cd "$out" && pwd)
rows=$out/gpu-$device.jsonl
kept=${WORK:-}
if [ -n "$kept" ]; then
  mkdir -p "$kept"
  work=$(cd "$kept" && pwd)
else
  # Disks of rented machines can be slower than a GPU trains; memory is taken where it holds the shards twice.
  gigabytes() { df --output=avail -B1G "$1" 2>/dev/null | tail -1 | tr -d ' ' || true; }
  free=$(awk '/^MemAvailable/ {print int($2 / 1048576)}' /proc/meminfo 2>/dev/null || echo 0)
  base=${TMPDIR:-/tmp}
  memory=$(gigabytes /dev/shm)
  if [ "$free" -ge $((2 * need)) ] && [ "${memory:-0}" -ge "$need" ] && [ -w /dev/shm ]; then
    base=/dev/shm
  fi
  work=$(mktemp -d "$base/gpu-XXXXXX")
fi
export PYTHONPATH=$PWD:$PWD/benchmarks${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
export TEST_ROWS=$rows

failed=() left_out=() running=()
declare -A begun=()

# note PART KIND [FIELDS]: one line of the script's own among the rows.
note() { printf '{"part":"%s","kind":"%s"%s}\n' "$1" "$2" "${3:+,$3}" >>"$rows"; }

sum_up() { "$python" benchmarks/summary.py --rows "$rows" --json "$out/gpu-$device.json" || true; }

stop() {
  trap '' INT TERM
  local entry
  for entry in "${running[@]}"; do
    kill -KILL -- "-${entry#* }" 2>/dev/null || true
    note "${entry% *}" state "\"state\":\"cut\",\"seconds\":$((SECONDS - begun[${entry% *}]))"
  done
  sum_up
  exit "$1"
}
trap '[ -n "$kept" ] || rm -rf "$work"' EXIT
trap 'stop 130' INT
trap 'stop 143' TERM

leave_out() {
  left_out+=("$1: $2")
  note "$1" state "\"state\":\"left out: $2\""
}

# start PART LIMIT COMMAND...: begin a part, within its own limit and what is left of the time.
start() {
  local name=$1 limit=$(($2 * budget / 400)) left=$((budget - SECONDS))
  shift 2
  [[ " ${wanted[*]} " == *" $name "* ]] || return 0
  [ "$left" -ge 10 ] || { leave_out "$name" "no time"; return 0; }
  echo "== $name ($SECONDS s)"
  note "$name" started
  begun[$name]=$SECONDS
  timeout -k 5 "$((limit < left ? limit : left))" "$@" >"$out/$name-$device.log" 2>&1 </dev/null &
  running+=("$name $!")
}

# finish: wait for the parts that were begun, and note how they ended.
finish() {
  local entry name process code state
  for entry in "${running[@]}"; do
    name=${entry% *} process=${entry#* } code=0
    wait "$process" || code=$?
    kill -KILL -- "-$process" 2>/dev/null || true # whatever a part left behind
    case $code in
      0) state=complete ;;
      124 | 137 | 143) state=cut ;;
      *) state="failed (code $code)" ;;
    esac
    note "$name" state "\"state\":\"$state\",\"begun\":${begun[$name]},\"seconds\":$((SECONDS - begun[$name]))"
    running=("${running[@]:1}")
    cat "$out/$name-$device.log" >>"$out/gpu-$device.log"
    if [ "$code" != 0 ]; then
      echo "   $state; the end of what it said:"
      # Characters, not bytes: half of one is no text.
      tail -n 5 "$out/$name-$device.log" | LC_ALL=C.UTF-8 sed 's/^\(.\{0,300\}\).*$/   \1/'
    fi
    [ "$name" = tests ] || rm "$out/$name-$device.log"
    [ "$state" = complete ] || [ "$state" = cut ] || failed+=("$name")
  done
}

if [ -d "${WHEELS:-build/wheels}" ]; then
  wheels=("${WHEELS:-build/wheels}"/*.whl)
  if "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade \
    --target "$work/site" "${wheels[@]}" >"$work/pip.log" 2>&1; then
    export PYTHONPATH=$work/site:$PYTHONPATH
  else
    echo "the wheels can't be installed here, so what is missing stays missing: $(tail -n 1 "$work/pip.log")"
  fi
fi

for name in prepare job device bench job-variants; do
  # Parts that need shards bring `prepare` with them.
  if [[ " ${wanted[*]} " == *" $name "* ]] && [ ! -e "$work/data/raw/manifest.json" ]; then
    [[ " ${wanted[*]} " == *" prepare "* ]] || wanted=(prepare "${wanted[@]}")
    rm -rf "$work/data" # what an earlier run has not finished
  fi
done
for name in speedrun accuracy; do
  [[ " ${wanted[*]} " != *" $name "* ]] || wanted+=(prepare-64px)
done
measured=(--device "$device" --rows "$rows" --repetitions "$repetitions")

if [ ! -e "$work/data/raw/manifest.json" ]; then
  start prepare 90 "$python" benchmarks/repeated.py --out "$work/data" "${data[@]}" \
    --workers "$((cores > testers ? cores - testers : 1))" --rows "$rows"
fi
if ! "$python" -c 'import pytest, hypothesis' 2>/dev/null; then
  [[ " ${wanted[*]} " != *" tests "* ]] || leave_out tests "pytest or hypothesis is not installed"
else
  spread=()
  ! "$python" -c 'import xdist' 2>/dev/null || spread=(-p xdist -n "$testers" --dist worksteal)
  # Such machines have plugins of all kinds, and what one of them warns of would be an error.
  # What they compile is small: to start processes for it would take longer.
  export PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
  testing=("$python" -m pytest -q --tb=short -p outcomes -p no:cacheprovider "${spread[@]}")
  start tests 170 env TORCHINDUCTOR_COMPILE_THREADS=1 "${testing[@]}" "${tests[@]}"
fi
if [ -n "${FOOD101_64PX:-}" ] && [ ! -e "$work/64px/manifest.json" ]; then
  start prepare-64px 90 "$python" -m food101_fast.prepare --source "hub:$FOOD101_64PX" --size 64 --out "$work/64px"
fi
finish

# in_turn FOLDER NAME LIMIT COMMAND...: a part that needs the shards in a folder, and nothing beside it.
in_turn() {
  local shards=$1
  shift
  if [[ " ${wanted[*]} " == *" $1 "* ]] && [ -n "$shards" ] && [ ! -e "$work/$shards/manifest.json" ]; then
    leave_out "$1" "there are no shards in $shards"
  else
    start "$@"
    finish
  fi
}
raw=$work/data/raw
train=("$python" benchmarks/job.py --shards "$raw" --device "$device" --rows "$rows" "${job[@]}")
in_turn data/raw job 120 "${train[@]}" --work "$(mktemp -d "$work/job-XXXXXX")"
in_turn "" steps 120 "$python" benchmarks/steps.py "${step[@]}" --whole "${measured[@]}"
in_turn data/raw device 80 "$python" benchmarks/device.py --raw "$raw" --jpeg "$work/data/jpeg" "${load[@]}" \
  --seconds 0 "${measured[@]}" --repetitions "$((repetitions < 3 ? repetitions : 3))"
# shellcheck disable=SC2086 # SPEEDRUN holds several words
TQDM_DISABLE=1 in_turn 64px speedrun 90 "$python" benchmarks/speedrun.py --shards "$work/64px" --device "$device" \
  --rows "$rows" "${run[@]}" ${SPEEDRUN:-}
in_turn "" presets 60 "$python" benchmarks/presets.py "${preset[@]}" "${measured[@]}"
in_turn data/raw bench 60 "$python" benchmarks/stages.py --shards "$raw" --device "$device" --rows "$rows" "${whole[@]}"
in_turn data/raw job-variants 240 "${train[@]}" --work "$(mktemp -d "$work/job-XXXXXX")" "${variants[@]}" \
  --part job-variants
in_turn "" compiled 240 "$python" benchmarks/steps.py "${compiled[@]}" --whole --part compiled "${measured[@]}"
in_turn "" resnet50 60 "$python" benchmarks/steps.py "${resnet[@]}" --whole --part resnet50 "${measured[@]}"
in_turn 64px accuracy 120 "$python" benchmarks/accuracy.py --shards "$work/64px" --device "$device" "${learn[@]}" \
  --rows "$rows"

echo "== in short ($SECONDS s)"
sum_up
[ ${#left_out[@]} = 0 ] || printf 'left out: %s\n' "${left_out[@]}"
[ ${#failed[@]} = 0 ] || { printf 'failed: %s\n' "${failed[@]}"; exit 1; }
