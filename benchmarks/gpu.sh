#!/usr/bin/env bash
# What a GPU makes of all this, in ten minutes at the most on one H100 or H200:
#
#   benchmarks/gpu.sh DATA OUT [MINUTES]     DATA: the folder with CIFAR-10, as --data-dir of `bench run`
#   benchmarks/gpu.sh --toy OUT              the same on the CPU in seconds: digits, a tiny network
#
# It runs the CUDA tests, measures training steps (PGD-10 and one step, bf16 and float32) against a loop as written by
# hand, trains `one-step-strong` on all of CIFAR-10 for as long as the time allows, attacks 1,000 images by aa and
# aa-fast, and leaves OUT/gpu.json and the records in OUT. The same command again goes on where it ended: what
# is done stands in OUT/steps/, and a training resumes within its epoch.
#
# Needs Python >= 3.11 with torch >= 2.11, torchvision and the packages of pyproject.toml; no network, no installation of
# this package, and neither pyautoattack nor foolbox, which only cross-checks and ddn use. What a machine lacks
# (pydantic, as a rule) can be carried as wheels, for its Python version and platform:
#
#   pip download --only-binary=:all: --no-deps --python-version 3.12 --platform manylinux_2_17_x86_64 \
#       -d wheels pydantic pydantic-core annotated-types typing-inspection     # versions: as pydantic asks
#   pip install --no-index --no-deps --target /tmp/site wheels/*.whl && export PYTHONPATH=/tmp/site
#
# Exit status: 0 all done; 1 a test or a cell failed; 2 bad input; 124 out of time, run it again.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="${PYTHON:-python3}"
if [ "${1:-}" = "--toy" ] && [ $# -eq 2 ]; then
  arguments=(--toy --out "$2")
  minutes=10
elif [ $# -ge 2 ] && [ $# -le 3 ] && [ "${1#-}" = "$1" ]; then
  minutes="${3:-10}"
  arguments=(--data "$1" --out "$2" --minutes "$minutes")
else
  sed -n '2,5p' "${BASH_SOURCE[0]}" >&2
  exit 2
fi
if ! [[ "$minutes" =~ ^[1-9][0-9]*$ ]]; then
  echo "gpu.sh: MINUTES must be a whole number from 1, got $minutes" >&2
  exit 2
fi
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"
cd "$here"
exec timeout --signal=INT --kill-after=20 "${minutes}m" "$python" benchmarks/gpu.py "${arguments[@]}"
