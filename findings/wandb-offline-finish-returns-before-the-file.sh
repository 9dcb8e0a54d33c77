#!/usr/bin/env bash
# W&B: finish() of an offline run returns while the run's file still has nothing but its header.
#
# A run that is online has its data at the server when finish() returns. An offline run's data go to a local file,
# which a service process writes a moment later. A job that copies or uploads the folder as its last act, or a test
# that opens the file, gets seven bytes: a run without history, configuration or summary, and no error.
#
# Seen with wandb 0.31.0, Python 3.11, Linux, 2026-11-30, in four or five of five runs of one process:
#   file at the return of finish(): 7 bytes, the logged metric is not in it
#   10 to 60 ms later: 1500 to 2200 bytes, the metric is in it
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check wandb==0.31.0 2>/dev/null

cd "$folder"
WANDB_MODE=offline WANDB_SILENT=true "$folder/venv/bin/python" - <<'PY'
import time
from pathlib import Path

import wandb

early = 0
for number in range(5):
    Path(f"run{number}").mkdir()
    run = wandb.init(project="p", dir=f"run{number}")
    for step in range(3):
        run.log({"a/loss": 1 / (step + 1)}, step=step)
    run.finish()
    (file,) = Path(f"run{number}").glob("wandb/offline-run-*/run-*.wandb")
    before = file.read_bytes()
    deadline = time.monotonic() + 30
    while b"a/loss" not in file.read_bytes():
        assert time.monotonic() < deadline, "the metric never came"
        time.sleep(0.01)
    print(f"at the return of finish(): {len(before)} bytes; then {file.stat().st_size}")
    early += b"a/loss" not in before
assert early, "finish() waits for the file now"
print(f"{early} of 5 runs returned before their file was written")
PY
echo "as seen: finish() returned before the file was written"
