"""The one way in which tables are kept: whole or refused, no more read than is needed, equal bytes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robustness_bench.benchmark.errors import StoreError
from robustness_bench.benchmark.store.parquet import read_as, read_table, typed, write_table

STORY = {"format": 3, "id": "abc"}
KINDS = {"sample": pa.int32(), "l2": pa.float32(), "label": pa.int16(), "flagged": pa.bool_()}
ROWS = {"sample": np.arange(400), "l2": np.linspace(0, 1, 400), "flagged": np.arange(400) % 3 == 1}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_table(tmp_path / "t.parquet", typed({**ROWS, "label": ROWS["sample"] % 7}, KINDS), STORY)
    return tmp_path / "t.parquet"


def test_columns_have_their_types_and_those_without_rows_are_empty() -> None:
    columns = typed({"l2": np.array([1.5])}, KINDS)
    assert {name: (column.type, len(column)) for name, column in columns.items()} == {
        "sample": (pa.int32(), 0),
        "l2": (pa.float32(), 1),
        "label": (pa.int16(), 0),
        "flagged": (pa.bool_(), 0),
    }


def test_a_table_comes_back_with_its_story(path: Path) -> None:
    found: dict[str, Any] = read_as(dict, path, 3)
    assert found.keys() == {"id", "rows"}
    assert list(found["rows"]) == list(KINDS)
    assert np.array_equal(found["rows"]["label"], ROWS["sample"] % 7)
    assert np.array_equal(found["rows"]["flagged"], ROWS["flagged"])
    assert [rows.dtype.name for rows in found["rows"].values()] == ["int32", "float32", "int16", "bool"]
    write_table(path, typed({}, KINDS), STORY)
    nothing: dict[str, Any] = read_as(dict, path, 3)
    assert [len(rows) for rows in nothing["rows"].values()] == [0, 0, 0, 0]


def test_equal_tables_are_equal_bytes(path: Path, tmp_path: Path) -> None:
    columns = typed({**ROWS, "label": ROWS["sample"] % 7}, KINDS)
    write_table(tmp_path / "other.parquet", columns, STORY)
    assert (tmp_path / "other.parquet").read_bytes() == path.read_bytes()


def test_damage_is_noticed_in_older_tables_too(path: Path, tmp_path: Path) -> None:
    """Tables of before the hash have the checksums of their pages; without them nothing is noticed."""
    columns = typed({**ROWS, "label": ROWS["sample"] % 7}, KINDS)
    table = pa.table(columns, metadata={b"bench": json.dumps(STORY)})
    for name, checksums in (("bare", False), ("older", True)):
        file = tmp_path / f"{name}.parquet"
        pq.write_table(table, file, write_page_checksum=checksums)
        content = bytearray(file.read_bytes())
        # Of a page of data: the metadata, in which the story is, stays as it was.
        content[pq.read_metadata(file).row_group(0).column(1).dictionary_page_offset + 200] ^= 1
        file.write_bytes(bytes(content))
    read_table(tmp_path / "bare.parquet", 3)
    with pytest.raises(StoreError, match=r"older.parquet is damaged \(.*CRC"):
        read_table(tmp_path / "older.parquet", 3)


def test_no_bit_changes_unnoticed(tmp_path: Path) -> None:
    """In any byte of the values, the footer or the story; one in the hash's name leaves a table without."""
    path = tmp_path / "small.parquet"
    rows = {name: values[:50] for name, values in ROWS.items()}
    write_table(path, typed({**rows, "label": rows["sample"] % 7}, KINDS), STORY)
    written = path.read_bytes()
    unnoticed = []
    for at in range(len(written)):
        content = bytearray(written)
        content[at] ^= 1 << at % 8
        path.write_bytes(bytes(content))
        try:
            assert read_table(path, 3).story == {"id": "abc"}
            unnoticed.append(at)
        except StoreError:
            pass
    name = written.index(b"bench-sha256")
    assert set(unnoticed) <= set(range(name - 1, name + len(b"bench-sha256")))  # its length stands before it


def test_only_the_columns_that_are_needed_are_read(path: Path) -> None:
    asked: list[Any] = []

    def needed(story: dict[str, Any]) -> list[str]:
        asked.append(story)
        return ["label", "sample"]

    story, table = read_table(path, 3, columns=needed)
    assert asked == [{"id": "abc"}]
    assert story == {"id": "abc"}
    assert sorted(table.column_names) == ["label", "sample"]


def test_what_is_not_as_it_should_be_is_one_line(path: Path, tmp_path: Path) -> None:
    said: dict[str, tuple[Callable[[], object], str]] = {
        "another version": (lambda: read_table(path, 4), "has format 3, this is bench's format 4: use the"),
        "a column less": (lambda: read_table(path, 3, columns=lambda _: ["l2", "l1"]), "it lacks l1"),
        "another story": (lambda: read_as(lambda rows: rows, path, 3), "is damaged"),
        "not there": (lambda: read_table(tmp_path / "no", 3), "No such file"),
        "a folder": (lambda: read_table(tmp_path, 3), "Is a directory"),
        "with a remedy": (lambda: read_table(tmp_path / "no", 3, remedy="ask"), "; ask"),
    }
    for work, text in said.values():
        with pytest.raises(StoreError) as refusal:
            work()
        assert text in str(refusal.value)
        assert len(str(refusal.value).splitlines()) == 1
