"""`bench export` and what `bench import` refuses: hostile and broken archives, one reason each."""

import hashlib
import io
import json
import shutil
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from robustness_bench.benchmark.cli.shared.options import Request
from robustness_bench.benchmark.data import locate
from robustness_bench.benchmark.exchange.layout import finished, owner_of
from robustness_bench.benchmark.exchange.manifest import MANIFEST, Listed, write_manifest
from robustness_bench.benchmark.files import short_hash, write_atomic
from robustness_bench.benchmark.plan.tasks import Task, make_mi_plan, make_plan
from robustness_bench.benchmark.store.cards import save_tensors
from robustness_bench.benchmark.store.cells import DISTANCES, write_record
from robustness_bench.benchmark.store.evidence import Evidence, evidence_of, write_evidence
from robustness_bench.benchmark.store.gallery import Examples, examples_of, write_examples
from robustness_bench.benchmark.store.information import write_mi_record
from tests.conftest import Bench

IMAGES = 6
ASKED = ["--defense", "standard", "--norm", "linf", "--attacks", "pgd-40", "--n-examples", IMAGES]
MACHINE = {"hardware": "here"}
EPOCH: dict[str, Any] = {"lr": 0.1, "gradient_norm": 1.0, "seconds": 2.0, "images_per_second": 3.0}


def write_store(
    out: Path, *, seeds: int = 1, fooled: int = 3, weights: float = 1.0, seconds: float = 1.0, error: str = ""
) -> list[Task]:
    """What `bench run` and `bench estimate-mi` leave for ASKED, with made-up outcomes.

    Args:
        fooled: images that every attack fools.
        weights: what every tensor holds.
        error: of all cells; they have no rows then.
    """
    request = Request(defense=["standard"], norm=["linf"], attacks=["pgd-40"], n_examples=IMAGES, seeds=seeds)
    protocol, data = request.protocol(), {"digits": locate("digits", Path("data"))}
    tasks = {task.id: task for task in make_plan(protocol, data)}
    tasks |= {task.id: task for task in make_mi_plan(protocol, data, ["eq-5"])}
    for task in tasks.values():
        path, story = out / task.path, {"id": task.id, "seed": task.seed, "spec": task.spec}
        card = {**story, "environment": MACHINE, "seconds": seconds}
        if task.kind == "evaluate":
            _write_cell(path, task, fooled, seconds, error)
        elif task.kind == "measure-mi":
            rows = {"sample": np.arange(IMAGES), "natural": np.full(IMAGES, -0.5)}
            write_mi_record(path, task, rows, environment=MACHINE, seconds=seconds)
        elif task.kind == "diagnose":
            card |= {"flags": ["randomised"], "measured": {"natural": 0.5}}
            write_atomic(path, json.dumps(card).encode())
        else:
            card |= {"history": [EPOCH], "epoch": 1, "forwards": 1.0, "backwards": 1.0}
            save_tensors(path, {"w": torch.full((2, 3), weights)}, card)
    return list(tasks.values())


def _write_cell(path: Path, task: Task, fooled: int, seconds: float, error: str) -> None:
    moved = np.arange(IMAGES) < fooled if task.spec["attack"] != "none" else np.zeros(IMAGES, bool)
    rows: dict[str, Any] = {
        "sample": np.arange(IMAGES)[::-1] * 7,
        "label": np.ones(IMAGES),
        "clean_prediction": np.ones(IMAGES),
        "adversarial_prediction": np.where(moved, 0, 1),
        **dict.fromkeys(DISTANCES, 0.1 * moved),
        "forwards": np.full(IMAGES, 5.0),
        "backwards": np.full(IMAGES, 4.0),
    }
    write_record(
        path,
        task,
        {} if error else rows,
        environment=MACHINE,
        seconds=seconds,
        error=error,
    )
    if not error and task.spec["attack"] != "none":
        x, one = np.zeros((1, 1, 8, 8)), np.ones(1, np.int64)
        pictures = Examples(x.astype(np.uint8), x.astype(np.float32) + fooled, one, one, one)
        write_examples(examples_of(path), pictures)
        stored = np.zeros((fooled, 1, 8, 8), np.uint8)
        write_evidence(evidence_of(path), Evidence(task.id, rows["sample"][:fooled], "uint8", stored))


def tree(folder: Path) -> dict[str, str]:
    """Every file in a folder, hidden ones too, with a hash of it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store; copy it before changing it."""
    out = tmp_path_factory.mktemp("made") / "results"
    write_store(out)
    return out


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "results"))


# ---- export


def test_names_of_a_store_are_told_apart(store: Path) -> None:
    """Of every kind one; what a run has begun, what it makes of results, and what else lies there is not."""
    names = finished(store)
    folders = {name.partition("/")[0] for name in names}
    assert folders == {"records", "mi", "diagnoses", "checkpoints", "crafted", "examples", "evidence"}
    assert all(owner_of(name) in ("", *names) for name in names)
    record = next(name for name in names if name.startswith("records/") and "pgd" in name)
    (store / record).with_suffix(".8.partial").write_text("begun")
    (store / record).with_name(".x.tmp").write_text("begun")
    (store / record).with_name(".x.parquet").write_text("begun")
    (store / "results.csv").write_text("made anew")
    (store / "records" / "note.parquet").write_text("elsewhere")
    (store / "checkpoints" / "digits" / "new-0123456789ab.safetensors").write_text("its card comes last")
    assert finished(store) == names
    (store / record).unlink()
    assert finished(store) == [name for name in names if owner_of(name) != record and name != record]


def test_an_archive_is_the_same_bytes_anywhere_and_holds_what_was_asked(
    bench: Bench, store: Path, tmp_path: Path
) -> None:
    said = bench("export", store, tmp_path / "a.zip")
    assert said.status == 0, said.err
    copy = Path(shutil.copytree(store, tmp_path / "copy"))
    shutil.rmtree(store)
    for path in sorted(copy.rglob("*.parquet"), reverse=True):
        path.touch()
    assert bench("export", copy, tmp_path / "b.zip").out.splitlines()[1] == said.out.splitlines()[1]
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert said.out.splitlines()[1].startswith("digest ")

    def held(*flags: str) -> list[str]:
        assert bench("export", copy, tmp_path / f"{len(flags)}{flags[-1:]}.zip", *flags).status == 0
        with zipfile.ZipFile(tmp_path / f"{len(flags)}{flags[-1:]}.zip") as packed:
            assert packed.namelist()[0] == MANIFEST
            assert {member.date_time for member in packed.infolist()} == {(1980, 1, 1, 0, 0, 0)}
            return packed.namelist()[1:]

    everything = finished(copy)
    weights = {name for name in everything if name.endswith(".safetensors") and name.startswith("checkp")}
    images = {n for n in everything if n.startswith("evidence/")} | {
        name for name in everything if name.endswith(".safetensors") and name.startswith("crafted/")
    }
    assert weights
    assert images
    assert held() == [name for name in everything if name not in weights | images]
    assert set(held("--with-weights")) == set(everything) - images
    assert set(held("--with-images")) == set(everything) - weights
    assert held("--with-images", "--with-weights") == everything


def test_export_overwrites_nothing_but_the_same(bench: Bench, store: Path, tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    assert "written" in bench("export", store, archive).out
    stamp = archive.stat().st_mtime_ns
    assert "was there already" in bench("export", store, archive).out
    assert archive.stat().st_mtime_ns == stamp
    archive.write_bytes(b"other")
    said = bench("export", store, archive)
    assert said.status == 2
    assert "exists and holds something else: delete it" in said.err
    assert archive.read_bytes() == b"other"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "results"]


def test_export_says_what_is_wrong(
    bench: Bench, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "must be a file named like results.zip" in bench("export", store).err
    assert "takes a folder and an archive" in bench("export", store, "b", "c.zip").err
    assert "there is no folder nowhere" in bench("export", "nowhere", "a.zip").err
    assert bench("export", "a.zip").status == 0, "results is the folder unless one is named"
    (tmp_path / "empty").mkdir()
    assert "empty holds no results" in bench("export", "empty", "b.zip").err
    strange = store / "diagnoses" / "di<b>its" / "a.json"
    write_atomic(strange, b"{}")
    assert "diagnoses/di<b>its/a.json has the character U+003C" in bench("export", store, "b.zip").err
    strange.unlink()
    card = next(store.glob("checkpoints/*/*.json"))
    card.write_text("{")
    said = bench("export", store, "b.zip")
    assert said.status == 2
    assert f"{card.name} is damaged" in said.err
    assert "delete or move it, and run the command that makes it again" in said.err
    assert not Path("b.zip").exists()


# ---- what is refused

Files = dict[str, bytes]


class Member(NamedTuple):
    """A member of a zip file that is made by hand."""

    name: str
    content: bytes
    attributes: int = 0o100644 << 16
    method: int = zipfile.ZIP_STORED


def listing(files: Files, **wrong: Any) -> bytes:
    """A manifest of files; ``wrong`` replaces fields of the first."""
    listed = [Listed(name, len(c), hashlib.sha256(c).hexdigest()) for name, c in files.items()]
    listed[0] = listed[0]._replace(**wrong)
    return write_manifest(listed)


def zipped(members: list[Member]) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as packed:
        warnings.simplefilter("ignore")  # of names that are there twice
        for member in members:
            entry = zipfile.ZipInfo(member.name)
            entry.external_attr, entry.compress_type = member.attributes, member.method
            entry.create_system = 3
            packed.writestr(entry, member.content)
    return buffer.getvalue()


def packed(files: Files, manifest: bytes | None = None, **more: Any) -> bytes:
    """An archive of these files; ``more`` holds for each member but the manifest."""
    members = [Member(name, content, **more) for name, content in files.items()]
    return zipped([Member(MANIFEST, listing(files) if manifest is None else manifest), *members])


def central(content: bytes, name: str, at: int, layout: str, *values: int) -> bytes:
    """Overwrite fields of a member's entry in the directory at the end of a zip file."""
    changed = bytearray(content)
    with zipfile.ZipFile(io.BytesIO(content)) as opened:
        start = opened.start_dir
    place = content.index(name.encode(), start) - 46
    assert content[place : place + 4] == b"PK\x01\x02"
    struct.pack_into(layout, changed, place + at, *values)
    return bytes(changed)


def renamed(files: Files, new: str, like: str = "records/") -> Files:
    """One file under another name, and listed under it."""
    old = some(files, like)
    return {new if name == old else name: content for name, content in files.items()}


def some(files: Files, start: str, part: str = "") -> str:
    return next(name for name in files if name.startswith(start) and part in name)


def retold(content: bytes, **changes: Any) -> bytes:
    """A record with another story around the same rows."""
    table = pq.read_table(io.BytesIO(content))
    story = json.loads(table.schema.metadata[b"bench"]) | changes
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({b"bench": json.dumps(story).encode()}), buffer)
    return buffer.getvalue()


def story_of(content: bytes) -> dict[str, Any]:
    story: dict[str, Any] = json.loads(pq.read_schema(io.BytesIO(content)).metadata[b"bench"])
    return story


def with_story(files: Files, **changes: Any) -> Files:
    name = some(files, "records/", "pgd")
    return files | {name: retold(files[name], **changes)}


def with_spec(files: Files, **changes: Any) -> Files:
    """Other settings of a record, with the id and the place that follow from them."""
    old = some(files, "records/", "pgd")
    story = story_of(files[old])
    spec = story["spec"] | changes
    identity = short_hash([spec, story["seed"]])
    new = old.replace(story["id"], identity)
    rest = {name: content for name, content in files.items() if owner_of(name) != old and name != old}
    return rest | {new: retold(files[old], spec=spec, id=identity)}


def with_card(files: Files, start: str = "checkpoints/", **changes: Any) -> Files:
    name = next(n for n in files if n.startswith(start) and n.endswith(".json"))
    return files | {name: recarded(files[name], **changes)}


def recarded(card: bytes, **changes: Any) -> bytes:
    """A card with other entries and without their hash: who forges them can forge that too."""
    entries = json.loads(card) | changes
    entries.pop("entries_sha256", None)
    return json.dumps(entries).encode()


def with_rows(files: Files, name: str, values: list[Any], length: int | None = None) -> Files:
    """Other values in one column of a record."""
    path = some(files, "records/", "pgd")
    table = pq.read_table(io.BytesIO(files[path]))
    at = table.schema.get_field_index(name)
    table = table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))
    buffer = io.BytesIO()
    described = {b"bench": table.schema.metadata[b"bench"]}  # no hash: who forges rows can forge that too
    pq.write_table(table.replace_schema_metadata(described).slice(0, length), buffer)
    return files | {path: buffer.getvalue()}


def flipped(files: Files) -> Files:
    """One bit of a record's values."""
    name = some(files, "records/", "pgd")
    content = bytearray(files[name])
    content[100] ^= 1
    return files | {name: bytes(content)}


def moved(files: Files) -> Files:
    """Two records at each other's places."""
    one, other = some(files, "records/", "pgd"), some(files, "records/", "none")
    return files | {one: files[other], other: files[one]}


def endless() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"sample": np.zeros(2_000_001, np.int8)}), buffer)
    return buffer.getvalue()


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def swapped(files: Files, start: str, content: bytes) -> Files:
    return files | {some(files, start): content}


R = "records/digits/linf/white/standard/"
CARD_SUFFIX = ".safetensors"
PICKLE = b"\x80\x04\x95\x0c\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94."


def tensors(files: Files, content: bytes) -> Files:
    name = next(n for n in files if n.startswith("checkpoints/") and n.endswith(CARD_SUFFIX))
    card = name.replace(CARD_SUFFIX, ".json")
    sha256 = hashlib.sha256(content).hexdigest()
    return files | {name: content, card: recarded(files[card], sha256=sha256)}


def other_evidence(files: Files) -> Files:
    """One record's evidence beside another's."""
    one, other = [name for name in files if name.startswith("evidence/")][:2]
    return files | {one: files[other]}


def without(files: Files, name: str) -> Files:
    return {each: content for each, content in files.items() if each != name}


def resized(files: Files, by: int) -> bytes:
    """The last member with another size in the zip's directory and in the manifest."""
    last = list(files)[-1]
    size = len(files[last]) + by
    manifest = json.loads(listing(files))
    next(entry for entry in manifest["files"] if entry["path"] == last)["size"] = size
    return central(packed(files, json.dumps(manifest).encode()), last, 20, "<II", size, size)


HOSTILE: dict[str, tuple[Callable[[Files], bytes], str]] = {
    # the zip file
    "empty": (lambda f: b"", "it is no zip file or cut short"),
    "no zip file": (lambda f: b"hello, this is text" * 9, "it is no zip file or cut short"),
    "truncated": (lambda f: packed(f)[:-300], "it is no zip file or cut short"),
    "head cut off": (lambda f: packed(f)[2000:], "it is no zip file or cut short"),
    "no members": (lambda f: zipped([]), "its first member is not manifest.json"),
    "altered data": (
        lambda f: packed(f).replace(f[some(f, "diagnoses/")], b" " * len(f[some(f, "diagnoses/")])),
        "is damaged (Bad CRC-32",
    ),
    # the manifest
    "manifest missing": (lambda f: zipped([Member(*item) for item in f.items()]), "its first member is not"),
    "manifest later": (
        lambda f: zipped([*(Member(*item) for item in f.items()), Member(MANIFEST, listing(f))]),
        "its first member is not",
    ),
    "manifest twice": (
        lambda f: zipped([Member(MANIFEST, listing(f)), Member(MANIFEST, listing(f))]),
        "manifest.json in it is there twice",
    ),
    "manifest no JSON": (lambda f: packed(f, b"files: all"), "it is invalid: Invalid JSON: expected ident"),
    "manifest nested deep": (
        lambda f: packed(f, nested(100_000)),
        "it is invalid: Invalid JSON: recursion",
    ),
    "manifest a list": (lambda f: packed(f, b"[]"), "in it is invalid: must be a table, got []"),
    "another format": (
        lambda f: packed(f, listing(f).replace(b'"format":1', b'"format":2')),
        "format is 2, this is bench's format 1",
    ),
    "more in manifest": (
        lambda f: packed(f, listing(f).replace(b'"format":1', b'"format":1,"x":1')),
        "unknown key 'x'; known: format, files",
    ),
    "entry without hash": (
        lambda f: packed(f, b'{"format":1,"files":[{"path":"a","size":1}]}'),
        "files.sha256 is missing",
    ),
    "negative size": (lambda f: packed(f, listing(f, size=-1)), "files.size must be at least 0, got -1"),
    "no hash": (lambda f: packed(f, listing(f, sha256="0" * 63)), "files.sha256 must match ^[0-9a-f]{64}$"),
    "listed twice": (
        lambda f: packed(f, write_manifest([Listed("a", 1, "0" * 64), Listed("a", 2, "0" * 64)])),
        "lists a file twice",
    ),
    "wrong hash": (lambda f: packed(f, listing(f, sha256="0" * 64)), "its SHA-256 differs"),
    "wrong size": (lambda f: packed(f, listing(f, size=3)), "has another size than listed"),
    "extra member": (
        lambda f: packed(f | {"diagnoses/digits/x.json": b"{}"}, listing(f)),
        "diagnoses/digits/x.json in it is not listed in manifest.json",
    ),
    "missing member": (
        lambda f: packed(without(f, some(f, "diagnoses/")), listing(f)),
        "is listed but missing",
    ),
    # names
    "traversal": (lambda f: packed(renamed(f, "records/../../../a/b/c.parquet")), "has .. in its path"),
    "absolute": (lambda f: packed(renamed(f, "/records/a/b/c/d/e.parquet")), "has an absolute path"),
    "backslash": (lambda f: packed(renamed(f, "records\\a\\b.parquet")), "has a backslash"),
    "drive letter": (lambda f: packed(renamed(f, "C:records/a.parquet")), "has a drive letter"),
    "folder": (lambda f: packed(f | {"records/digits/": b""}), "is a folder"),
    "control character": (lambda f: packed(renamed(f, f"{R}a\x1b[2J.parquet")), "the character U+001B"),
    "new line": (lambda f: packed(renamed(f, f"{R}a\nb.parquet")), "the character U+000A"),
    "markup": (lambda f: packed(renamed(f, f"{R}<b>.parquet")), "the character U+003C"),
    "right to left": (lambda f: packed(renamed(f, f"{R}a\u202eb.parquet")), "the character U+202E"),
    "decomposed": (lambda f: packed(renamed(f, f"{R}e\u0301.parquet")), "the character U+0301"),
    "decomposed letters": (
        lambda f: packed(renamed(f, f"{R}\u1112\u1161.parquet")),
        "not in Unicode's composed form",
    ),
    "NUL": (
        lambda f: packed(renamed(f, f"{R}aQQb.parquet")).replace(b"aQQb", b"a\0\0b"),
        "the character U+0000",
    ),
    "not UTF-8": (
        lambda f: packed(renamed(f, f"{R}aéb.parquet")).replace("aéb".encode(), b"a\xff\xfeb"),
        "a name in it is not UTF-8",
    ),
    "long name": (lambda f: packed(renamed(f, f"{R}{'a' * 193}.parquet")), "a name of more than 200 bytes"),
    "long path": (
        lambda f: packed(renamed(f, "/".join(["records", *["a" * 150] * 4, "b.parquet"]))),
        "a path of more than 600 bytes",
    ),
    "too deep": (lambda f: packed(renamed(f, f"{R}more/a.parquet")), "lies 6 folders deep"),
    "too shallow": (lambda f: packed(renamed(f, "records/a.parquet")), "lies 1 folders deep"),
    "unknown suffix": (lambda f: packed(renamed(f, f"{R}a.pt")), "has another suffix than .parquet"),
    "unknown folder": (
        lambda f: packed(renamed(f, "bin/a.parquet")),
        "is in none of the folders cal",
    ),
    "hidden": (lambda f: packed(renamed(f, f"{R}.a.parquet")), "begins or ends with a dot"),
    "empty part": (lambda f: packed(renamed(f, "records//a/b/c/d.parquet")), "is empty, or begins"),
    "twice": (
        lambda f: zipped([Member(MANIFEST, b""), *[Member(R + "a.parquet", b"")] * 2]),
        "is there twice",
    ),
    "twice but for case": (
        lambda f: packed(f | {R + "a.parquet": b"", R + "A.parquet": b""}),
        "differs from another in case only",
    ),
    # kinds of members
    "link": (lambda f: packed(f, attributes=0o120777 << 16), "is a link"),
    "device": (lambda f: packed(f, attributes=0o020666 << 16), "is no plain file"),
    "encrypted": (lambda f: central(packed(f), some(f, "records/"), 8, "<H", 1), "is encrypted"),
    "bomb": (
        lambda f: packed({R + "a.parquet": bytes(50_000_000)}, method=zipfile.ZIP_DEFLATED),
        "is compressed, or its two sizes differ",
    ),
    "sizes that differ": (
        lambda f: central(packed(f), some(f, "mi/"), 24, "<I", 2**31),
        "is compressed, or its two sizes differ",
    ),
    "overstated sizes": (lambda f: resized(f, 2**30), "its members claim more bytes than it has"),
    "overstated size": (lambda f: resized(f, 9), "is damaged"),
    "understated size": (lambda f: resized(f, -9), "is damaged (Bad CRC-32"),
    # records
    "altered row": (lambda f: packed(flipped(f)), "its bytes are not those that were written"),
    "another's id": (lambda f: packed(with_story(f, id="0" * 12)), "has the id '000000000000', its settings"),
    "another seed": (lambda f: packed(with_story(f, seed=3)), "its settings give"),
    "another's place": (lambda f: packed(moved(f)), "lies at another's place"),
    "another format of record": (
        lambda f: packed(with_story(f, format=1)),
        "has format 1, this is bench's format 2",
    ),
    "another family": (lambda f: packed(with_story(f, family="0" * 12)), "is of family '000000000000'"),
    "another model": (lambda f: packed(with_story(f, model_family="f" * 12)), "is of family 'ffffffffffff'"),
    "no spec": (lambda f: packed(with_story(f, spec=[])), "is no evaluate"),
    "a command of another program": (
        lambda f: packed(with_story(f, environment={"command": "rm -rf results"})),
        "is no command line of bench: 'rm -rf results'",
    ),
    "a second command": (
        lambda f: packed(with_story(f, environment={"command": "bench run; rm -rf results"})),
        "is no command line of bench",
    ),
    "a command of two lines": (
        lambda f: packed(with_story(f, environment={"command": "bench run '\n'"})),
        "has text that no terminal should print",
    ),
    "another's protocol": (
        lambda f: packed(f | {"protocols/0123456789ab.toml": b"seeds = 1"}),
        "lies at another's place, its settings say protocols/264c1234e6b9.toml",
    ),
    "a protocol no TOML": (
        lambda f: packed(f | {"protocols/0123456789ab.toml": b"seeds"}),
        "is not what bench writes (TOMLDecodeError",
    ),
    "no environment": (
        lambda f: packed(with_story(f, environment="x")),
        "environment must be a table",
    ),
    "seconds no number": (lambda f: packed(with_story(f, seconds="1")), "seconds must be a number, got '1'"),
    "unknown flag": (
        lambda f: packed(with_card(f, "diagnoses/", flags=["<b>"])),
        "flags is a flag that bench does not know",
    ),
    "failed with rows": (lambda f: packed(with_story(f, status="error")), "neither a result nor the story"),
    "unknown status": (
        lambda f: packed(with_story(f, status="fine")),
        "unknown status 'fine'; known: ok, error",
    ),
    "ε below zero": (lambda f: packed(with_spec(f, eps=-1.0)), "spec.eps must be at least 0, got -1.0"),
    "ε not finite": (lambda f: packed(with_story(f, spec=float("nan"))), "is no evaluate"),
    "attack no text": (lambda f: packed(with_spec(f, attack=3)), "spec.attack must be text in quotes, got 3"),
    "images claimed": (lambda f: packed(with_spec(f, n_examples=7)), "rows that are not those of 7 images"),
    "no parents": (lambda f: packed(with_spec(f, parents=[])), "spec.parents must be a table, got []"),
    "a sample twice": (lambda f: packed(with_rows(f, "sample", [1] * IMAGES)), "rows that are not those"),
    "a negative label": (lambda f: packed(with_rows(f, "label", [-1] * IMAGES)), "has a label that is"),
    "a norm not finite": (
        lambda f: packed(with_rows(f, "linf", [float("nan")] * IMAGES)),
        "has a linf that is negative or not finite",
    ),
    "a row less": (lambda f: packed(with_rows(f, "label", [1] * IMAGES, 5)), "has 5 rows"),
    "endless rows": (lambda f: packed(swapped(f, "records/", endless())), "claims 2000001 rows"),
    "a record no Parquet": (lambda f: packed(swapped(f, "records/", PICKLE)), "is damaged (Parquet magic"),
    "estimates no Parquet": (lambda f: packed(swapped(f, "mi/", PICKLE)), "is damaged (Parquet magic"),
    # diagnoses, cards, tensors, images
    "diagnosis cut": (lambda f: packed(swapped(f, "diagnoses/", b'{"id":')), "is damaged"),
    "diagnosis of others": (lambda f: packed(with_card(f, "diagnoses/", seed=1)), "its settings give"),
    "diagnosis nested deep": (lambda f: packed(swapped(f, "diagnoses/", nested(100_000))), "RecursionError"),
    "card cut": (lambda f: packed(swapped(f, "checkpoints/", b"{")), "is damaged"),
    "card of others": (lambda f: packed(with_card(f, seed=1)), "its settings give"),
    "card's history": (
        lambda f: packed(with_card(f, history=[EPOCH | {"lr": "<b>"}])),
        "history.lr must be a number, got '<b>'",
    ),
    "card's epoch": (
        lambda f: packed(with_card(f, history=[{"lr": 1}])),
        "is an epoch without gradient_norm",
    ),
    "card's hash no hash": (
        lambda f: packed(with_card(f, sha256="x")),
        "sha256 must match ^[0-9a-f]{64}$",
    ),
    "card's hash": (lambda f: packed(with_card(f, sha256="0" * 64)), "is not what its card describes"),
    "crafted card among models": (
        lambda f: packed(swapped(f, "checkpoints/", f[some(f, "crafted/", ".json")])),
        "is no train or load or estimators",
    ),
    "pickle as tensors": (lambda f: packed(tensors(f, PICKLE)), "is no safetensors file"),
    "huge header of tensors": (
        lambda f: packed(tensors(f, struct.pack("<Q", 2**40) + b"{}")),
        "is no safetensors file",
    ),
    "tensors without card": (
        lambda f: packed(without(f, some(f, "checkpoints/", ".json"))),
        "is there without checkpoints/",
    ),
    "pickle as image": (lambda f: packed(swapped(f, "examples/", PICKLE)), "is no safetensors file"),
    "image without record": (
        lambda f: packed(without(f, owner_of(some(f, "examples/")))),
        "is there without records/",
    ),
    "evidence of others": (lambda f: packed(other_evidence(f)), "is of another record than"),
    "evidence no Parquet": (lambda f: packed(swapped(f, "evidence/", PICKLE)), "is damaged (Parquet magic"),
}


@pytest.fixture(scope="module")
def files(made: Path) -> Files:
    return {name: (made / name).read_bytes() for name in finished(made)}


def test_what_the_hostile_are_made_from_is_taken(bench: Bench, files: Files, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(packed(files))
    said = bench("import", tmp_path / "a.zip", "--out", tmp_path / "r")
    assert said.status == 0, said.err
    assert finished(tmp_path / "r") == sorted(files)


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_wrong_is_refused_before_anything_is_written(
    bench: Bench, files: Files, tmp_path: Path, case: str
) -> None:
    make, reason = HOSTILE[case]
    archive, out = tmp_path / "a.zip", tmp_path / "results"
    archive.write_bytes(make(files))
    there = some(files, "diagnoses/")
    write_atomic(out / there, files[there])
    before = tree(tmp_path)
    said = bench("import", archive, "--out", out)
    assert said.status == 2
    assert reason in said.err
    assert "a.zip" in said.err
    assert len(said.err.strip().splitlines()) == 1
    assert said.err.strip().isprintable()
    assert len(said.err) < 1000
    assert tree(tmp_path) == before


def test_reasons_are_told_apart() -> None:
    assert len(HOSTILE) >= 25
    shared = [reason for _, reason in HOSTILE.values()]
    assert len(set(shared)) > 0.7 * len(shared)


def test_a_limit_of_size(bench: Bench, files: Files, tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(packed(files))
    said = bench("import", archive, "--out", tmp_path / "r", "--max-size", "0.00001")
    assert said.status == 2
    assert "the limit is 1e-05 GiB" in said.err
    assert "raise --max-size" in said.err
    claims = central(packed(files), some(files, "mi/"), 20, "<II", 2**31, 2**31)
    archive.write_bytes(claims)
    assert "holds 2 GiB, the limit is 1 GiB" in bench("import", archive, "--max-size", 1).err
    assert "must be a positive number of GiB, got 0.0" in bench("import", archive, "--max-size", 0).err


def test_archives_that_are_not_there(bench: Bench, tmp_path: Path) -> None:
    assert "there is no file" in bench("import", tmp_path / "a.zip").err
    assert "is a folder: bench merge joins folders" in bench("import", tmp_path).err
