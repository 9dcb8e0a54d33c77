#!/usr/bin/env bash
# fsspec's memory file system describes one file in two ways: a listing gives its creation time in seconds, a single
# query as a datetime.
#
# A cache or a mirror that keeps what the file system says of a file (size, ETag, creation time) to notice a change
# compares the two sooner or later: one from `find` or `ls` when it reads a folder, one from `info` after it has
# written a file. They are never equal on memory://, so every file seems to have changed. The local file
# system gives the same from both.
#
# Seen with fsspec 2026.9.0, Python 3.11, 2026-11-30:
#   memory ls:   created is a float
#   memory info: created is a datetime
#   file ls and info: the same float
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check fsspec==2026.9.0 2>/dev/null

"$folder/venv/bin/python" - "$folder/a.txt" <<'PY'
import sys
from pathlib import Path

import fsspec

memory = fsspec.filesystem("memory")
memory.pipe_file("/store/a.txt", b"text")
(listed,) = memory.ls("/store", detail=True)
asked = memory.info("/store/a.txt")
kinds = [type(each["created"]).__name__ for each in (listed, asked)]
print("memory ls:   created is a", kinds[0])
print("memory info: created is a", kinds[1])
assert kinds == ["float", "datetime"], "they are alike now"
assert str(listed["created"]) != str(asked["created"]), "their texts are alike now"

Path(sys.argv[1]).write_text("text")
local = fsspec.filesystem("file")
(listed,) = (each for each in local.ls(str(Path(sys.argv[1]).parent), detail=True) if each["name"] == sys.argv[1])
asked = local.info(sys.argv[1])
assert listed["created"] == asked["created"], "the local file system does it too"
print("file ls and info: the same", type(asked["created"]).__name__)
PY
echo "as seen: two descriptions of one file"
