#!/usr/bin/env bash
# pyarrow's page checksums leave the footer of a Parquet file unproved: one bit there, and other results are read.
#
# `write_page_checksum=True` and `page_checksum_verification=True` catch every changed bit of the values. The schema,
# the counts and the file's own metadata stand in the footer, for which the format has no checksum. With one bit of it
# changed, a file of ten float32 values reads without an error as one with another text in its metadata, another
# column name, or other values. Where a benchmark keeps seeds, ε and settings in a file's metadata, a damaged disk may
# so turn one result into another. Only a hash of the whole file proves it.
#
# Seen with pyarrow 26.0.1 and numpy 2.4.0 on 2026-12-01, Linux x86-64:
#   values: 0 changed bits went unnoticed
#   footer: 1710 of 4128 changed bits went unnoticed;
#     203 gave another text in the metadata
#     56 gave another column name
#     7 gave other values or fewer
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check pyarrow==26.0.1 numpy==2.4.0
"$folder/venv/bin/python" - <<'PYTHON'
import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

values = np.linspace(0, 1, 10, dtype=np.float32)
table = pa.table({"distance": values}, metadata={b"settings": b'{"seed": 0, "eps": 0.031}'})
buffer = io.BytesIO()
pq.write_table(table, buffer, write_page_checksum=True, use_dictionary=False, compression="none")
written = buffer.getvalue()
start = written.index(values.tobytes())
stop = start + values.nbytes
footer = len(written) - 8 - int.from_bytes(written[-8:-4], "little")


def read(content):
    file = pq.ParquetFile(pa.BufferReader(bytes(content)), page_checksum_verification=True)
    column = file.read(use_threads=False)
    return file.metadata.metadata[b"settings"], column.column_names[0], column.column(0).to_pylist()


whole = read(written)


def unnoticed(places):
    """Which of (settings, column name, values) are others, for every changed bit that reads without an error."""
    kinds = []
    for at in places:
        for bit in range(8):
            content = bytearray(written)
            content[at] ^= 1 << bit
            try:
                found = read(content)
            except (pa.ArrowException, OSError, LookupError, TypeError, ValueError):
                continue
            kinds.append(tuple(a != b for a, b in zip(found, whole)))
    return kinds


inside = unnoticed(range(start, stop))
after = unnoticed(range(footer, len(written) - 8))
print(f"values: {len(inside)} changed bits went unnoticed")
print(f"footer: {len(after)} of {8 * (len(written) - 8 - footer)} changed bits went unnoticed;")
for at, what in enumerate(("another text in the metadata", "another column name", "other values or fewer")):
    count = sum(kind[at] for kind in after)
    print(f"  {count} gave {what}")
    assert count > 0, f"{what} is noticed now"
assert not inside
PYTHON
