#!/usr/bin/env bash
# Downloads wheels for a machine that has a GPU, torch and the usual scientific packages, but no package index; gpu.sh
# installs them from there. By default those that this project and its CUDA tests import and that such machines lack.
#
#   benchmarks/gpu-wheels.sh [NAME...]    further packages: torchcodec (nvJPEG), kornia kornia-rs (a peer), timm, ...
#
#   WHEELS          where they go (build/wheels)
#   PYTHON_VERSION  of that machine (3.12)
#   PYTHON          the interpreter whose pip downloads (python3)
#
# Versions are those of constraints.txt, where they are in it. Nothing that a package needs is fetched by itself: name it.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
wheels=${WHEELS:-build/wheels}
version=${PYTHON_VERSION:-3.12}
names=(orjson msgspec annotated-types psutil simplejpeg tyro docstring_parser filelock typeguard braceexpand webdataset datasets dill multiprocess "$@")

pinned=()
for name in "${names[@]}"; do
  line=$(grep -i "^${name%%=*}==" constraints.txt || true)
  case $name in *==*) line=$name ;; esac
  pinned+=("${line:-$name}")
done
platforms=()
for platform in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014 manylinux1; do
  platforms+=(--platform "${platform}_x86_64")
done
# Made anew, since two versions of one package would stop the whole installation.
mkdir -p "$wheels"
rm -f "$wheels"/*.whl
"$python" -m pip download --quiet --no-deps --only-binary :all: --implementation cp --python-version "$version" \
  "${platforms[@]}" --dest "$wheels" "${pinned[@]}"
(cd "$wheels" && wc -c -- *.whl)
