"""Detectors' results on their way between machines: what is carried, and what is refused."""

import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save

from robustness_bench.benchmark.exchange.layout import companions_of, finished, owner_of
from robustness_bench.benchmark.files import short_hash, write_atomic
from robustness_bench.benchmark.store.detections import find_detections, read_detection
from robustness_bench.benchmark.store.generated import SUFFIX
from tests.benchmark.detector_store import IMAGES, SYSTEMS, asked, generated, write_detectors
from tests.benchmark.exchange.test_archive import (
    PICKLE,
    Files,
    packed,
    recarded,
    retold,
    story_of,
    tree,
    without,
)
from tests.benchmark.exchange.test_merge import counts, results
from tests.conftest import ROOT, Bench

CW = "detections/digits/mi-magnet/cw-k0-"
NATURAL = "detections/digits/mi-magnet/none-"
WHITE = "detections/digits/magnet/adaptive-"
LOOSE = "calibrations/digits/reconstruction-1-"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store; copy it before changing it."""
    out = tmp_path_factory.mktemp("made") / "results"
    write_detectors(out)
    return out


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "results"))


@pytest.fixture(scope="module")
def files(made: Path) -> Files:
    """Of every kind a few: all of two detectors' cells would take long to check, a hundred times."""
    kept = ("detections/digits/mi-magnet/", WHITE, "calibrations/", "checkpoints/", "crafted/")
    return {name: (made / name).read_bytes() for name in finished(made) if name.startswith(kept)}


# ---- what is carried


def test_thresholds_and_generated_images_go_with_every_archive(
    bench: Bench, store: Path, tmp_path: Path
) -> None:
    assert bench("export", store, tmp_path / "a.zip").status == 0
    with zipfile.ZipFile(tmp_path / "a.zip") as opened:
        held = opened.namelist()[1:]
    everything = finished(store)
    heavy = {n for n in everything if n.endswith(".safetensors") and not n.startswith("calibrations/")}
    assert set(held) == set(everything) - heavy
    folders = {name.partition("/")[0] for name in held}
    assert folders == {"detections", "calibrations", "checkpoints", "crafted"}
    assert len([name for name in held if name.endswith(SUFFIX)]) == 2  # the defender's, the attacker's
    for name in everything:
        assert owner_of(name) in ("", *everything)
        assert not owner_of(name) or name in companions_of(owner_of(name))


def test_elsewhere_there_is_nothing_to_do_and_the_files_are_the_same(
    bench: Bench, store: Path, tmp_path: Path
) -> None:
    here = bench("run", *asked(), "--out", store)
    cells = len(find_detections(store))
    assert f"nothing to do: all {cells} cells are done" in here.out, here.err
    archive, there = tmp_path / "a.zip", tmp_path / "there"
    assert bench("export", store, archive).status == 0
    said = bench("import", archive, "--out", there)
    assert said.status == 0, said.err
    assert f"nothing to do: all {cells} cells are done" in bench("run", *asked(), "--out", there).out
    made = ["detections.csv", "detectors.csv", "learning.csv"]
    made += [f"tables/{path.name}" for path in sorted((store / "tables").iterdir())]
    assert len(made) > 7
    for name in made:
        assert (there / name).read_bytes() == (store / name).read_bytes()
    archive_of_it = tmp_path / "b.zip"
    assert bench("export", there, archive_of_it).status == 0
    assert archive_of_it.read_bytes() == archive.read_bytes()


def test_checking_needs_no_torch() -> None:
    program = (
        "import sys; from robustness_bench.benchmark.exchange import merging, writing; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


# ---- merging


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    return tmp_path / "theirs"


def test_the_same_results_of_another_machine_stay_ours(bench: Bench, store: Path, theirs: Path) -> None:
    write_detectors(theirs, seconds=99.0)
    before = results(store)
    said = bench("merge", theirs, "--out", store)
    assert counts(same=len(before)) in said.out, said.err
    assert results(store) == before


def test_more_systems_come_in(bench: Bench, store: Path, theirs: Path) -> None:
    write_detectors(theirs, systems="magnet,mi-magnet-vi")
    before, more = finished(store), finished(theirs)
    new = set(more) - set(before)
    assert {name.split("/")[2][:12] for name in new} >= {"mi-magnet-vi"}
    said = bench("merge", theirs, "--out", store)
    assert counts(new=len(new), same=len(more) - len(new)) in said.out, said.err
    assert finished(store) == sorted({*before, *more})


def test_a_cell_that_was_not_reproduced_is_news(bench: Bench, store: Path, theirs: Path) -> None:
    write_detectors(theirs, caught=4)
    before = results(store)
    said = bench("merge", theirs, "--out", store)
    assert said.status == 2
    assert "detections/digits/magnet/adaptive-grey-seed0-" in said.err
    assert re.search(r"cell, magnet × adaptive \(grey\) at κ = [\d.]+, seed 0: this result was not", said.err)
    assert results(store) == before
    differing = sum(1 for name in before if name.startswith("detections/") and "none-" not in name)
    said = bench("merge", theirs, "--out", store, "--keep", "theirs")
    assert counts(same=len(before) - differing, replaced=differing) in said.out, said.err
    assert results(store) == results(theirs)


def test_a_threshold_is_part_of_the_result(bench: Bench, store: Path, theirs: Path) -> None:
    """The rows are the same, and so are the flags."""
    shutil.copytree(store, theirs)
    for path in [*find_detections(theirs), *theirs.glob("calibrations/*/*.json")]:
        told = path.read_bytes()
        if path.suffix == ".json":
            path.write_bytes(recarded(told, remark="poor"))
        else:
            thresholds = story_of(told)["thresholds"]
            path.write_bytes(retold(told, remarks=dict.fromkeys(thresholds, "poor")))
    said = bench("merge", theirs, "--out", store)
    assert said.status == 2
    assert "calibrations/digits/" in said.err
    shutil.rmtree(theirs / "calibrations")
    said = bench("merge", theirs, "--out", store)
    assert said.status == 2
    assert "this result was not reproduced" in said.err


def test_a_result_replaces_a_failure(bench: Bench, store: Path, theirs: Path) -> None:
    cells = len(find_detections(store))
    failed = theirs.parent / "failed"
    write_detectors(failed, error="Traceback: memory")
    said = bench("merge", store, "--out", failed)
    assert counts(same=len(finished(store)) - cells, replaced=cells) in said.out, said.err
    assert results(failed) == results(store)


def test_other_weights_are_never_mixed_with_ours(bench: Bench, store: Path, theirs: Path) -> None:
    write_detectors(theirs, weights=2.0, seeds=2)
    said = bench("merge", theirs, "--out", store)
    assert "have different tensors for it" in said.err
    before = results(store)
    said = bench("merge", theirs, "--out", store, "--keep", "ours")
    assert said.status == 0, said.err
    after = results(store)
    assert {name: after[name] for name in before} == before


def test_a_generator_keeps_its_images(bench: Bench, store: Path, theirs: Path) -> None:
    """Images beside the same card are as good here; where there are none they come in."""
    shutil.copytree(store, theirs)
    one, other = sorted(path.relative_to(theirs) for path in theirs.rglob(f"*{SUFFIX}"))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **generated(seed=1)._asdict())
    (theirs / one).write_bytes(buffer.getvalue())
    kept = (store / one).read_bytes()
    (store / other).unlink()
    said = bench("merge", theirs, "--out", store)
    assert counts(new=1, same=len(finished(theirs)) - 1) in said.out, said.err
    assert (store / one).read_bytes() == kept
    assert (store / other).read_bytes() == (theirs / other).read_bytes()


# ---- what is refused


def some(files: Files, start: str, end: str = "") -> str:
    return next(name for name in files if name.startswith(start) and name.endswith(end))


def told(files: Files, start: str = CW, **changes: Any) -> bytes:
    """A cell with another story around the same rows."""
    name = some(files, start)
    return packed(files | {name: retold(files[name], **changes)})


def respec(files: Files, start: str = CW, **changes: Any) -> bytes:
    """Other settings of a cell, with the id that follows from them; None takes one away."""
    old = some(files, start)
    story = story_of(files[old])
    spec = {key: value for key, value in (story["spec"] | changes).items() if value is not None}
    identity = short_hash([spec, story["seed"]])
    new = old.replace(story["id"], identity)
    return packed(without(files, old) | {new: retold(files[old], spec=spec, id=identity)})


def parents(files: Files, start: str = CW, **changes: str) -> dict[str, str]:
    """Of a cell, with others added."""
    found: dict[str, str] = story_of(files[some(files, start)])["spec"]["parents"]
    return found | changes


def rows(files: Files, column: str, values: Any, start: str = CW, kind: pa.DataType | None = None) -> bytes:
    """Other values in one column of a cell; None removes it."""
    name = some(files, start)
    table = pq.read_table(io.BytesIO(files[name]))
    at = table.schema.get_field_index(column)
    field = table.schema.field(at) if at >= 0 else pa.field(column, kind)
    story = {b"bench": table.schema.metadata[b"bench"]}  # no hash: who forges rows can forge that too
    if at >= 0:
        table = table.remove_column(at)
    if values is not None:
        array = pa.array([values] * len(table) if np.isscalar(values) else values, kind or field.type)
        table = table.append_column(pa.field(column, array.type), array)
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(story), buffer)
    return packed(files | {name: buffer.getvalue()})


def card(files: Files, start: str = LOOSE, **changes: Any) -> bytes:
    name = some(files, start, ".json")
    return packed(files | {name: recarded(files[name], **changes)})


def recard(files: Files, start: str = LOOSE, **changes: Any) -> bytes:
    """Other settings of a calibration, with the id and place that follow from them."""
    name = some(files, start, ".json")
    story = json.loads(files[name])
    spec = story["spec"] | changes
    identity = short_hash([spec, story["seed"]])
    renamed = {each: each.replace(story["id"], identity) for each in files}
    content = recarded(files[name], spec=spec, id=identity)
    return packed({renamed[each]: content if each == name else files[each] for each in files})


def scored(files: Files, tensors: dict[str, Any], start: str = LOOSE, **changes: Any) -> bytes:
    """Other scores of a calibration, with a card that has their hash."""
    name = some(files, start, ".json")
    content = save(tensors)
    about = recarded(files[name], **({"sha256": hashlib.sha256(content).hexdigest()} | changes))
    tensor_file = name.replace(".json", ".safetensors")
    return packed(files | {name: about, tensor_file: content})


def images(files: Files, content: bytes) -> bytes:
    return packed(files | {some(files, "checkpoints/", SUFFIX): content})


def npz(**changes: Any) -> bytes:
    buffer = io.BytesIO()
    arrays: dict[str, Any] = generated()._asdict() | changes
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def bomb() -> bytes:
    """Few bytes that claim to be half a gigabyte."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packing:
        for name in generated()._fields:
            packing.writestr(f"{name}.npy", bytes(100_000_000))
    return buffer.getvalue()


def old_header() -> bytes:
    """A header as only Python 2 wrote it, which numpy reads with a warning."""
    whole = npz(label=np.array([2, 0, 2]))
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as given, zipfile.ZipFile(buffer, "w") as packing:
        for name in given.namelist():
            content = given.read(name)
            packing.writestr(name, content.replace(b"'shape': (3,), }  ", b"'shape': (3L,), } "))
    return buffer.getvalue()


SCORES = np.arange(200.0)
HOSTILE: dict[str, tuple[Callable[[Files], bytes], str]] = {
    # names
    "too deep": (
        lambda f: packed(f | {"detections/digits/magnet/more/a.parquet": b""}),
        "lies 4 folders deep, files of detections/ lie 3 deep",
    ),
    "another suffix": (lambda f: packed(f | {"checkpoints/digits/a.npz": b""}), "has another suffix than"),
    "a scores file of its own": (
        lambda f: packed(f | {"calibrations/digits/a-0123456789ab.safetensors": save({"scores": SCORES})}),
        "is there without calibrations/digits/a-0123456789ab.json",
    ),
    "images without a generator": (
        lambda f: packed(f | {f"checkpoints/digits/a{SUFFIX}": npz()}),
        "is there without checkpoints/digits/a.json",
    ),
    # cells: who they are
    "no Parquet": (lambda f: packed(f | {some(f, CW): PICKLE}), "is damaged (Parquet magic"),
    "cut short": (lambda f: packed(f | {some(f, CW): f[some(f, CW)][:-40]}), "is damaged ("),
    "another format": (lambda f: told(f, format=2), "has format 2, this is bench's format 1"),
    "another's id": (lambda f: told(f, id="0" * 12), "has the id '000000000000', its settings give"),
    "another seed": (lambda f: told(f, seed=1), "its settings give"),
    "another's place": (
        lambda f: packed(f | {some(f, CW): f[some(f, NATURAL)]}),
        "its settings say detections/digits/mi-magnet/none-seed0-",
    ),
    "another κ": (lambda f: respec(f, confidence=7.0), "its settings say detections/digits/mi-magnet/cw-k7-"),
    "another family": (lambda f: told(f, family="0" * 12), "is of family '000000000000'"),
    "another kind": (lambda f: respec(f, kind="evaluate"), "is no detect"),
    "no status": (lambda f: told(f, status="fine"), "unknown status 'fine'; known: ok, error"),
    "failed with rows": (
        lambda f: told(f, status="error", error="x"),
        "neither a result nor the story of a failure",
    ),
    "failed without a word": (
        lambda f: told(f, status="error"),
        "neither a result nor the story of a failure",
    ),
    "no seconds": (lambda f: told(f, seconds=None), "seconds must be a number, got None"),
    # cells: their settings
    "κ no number": (lambda f: respec(f, confidence="0"), "spec.confidence must be a number, got '0'"),
    "β no number": (
        lambda f: respec(f, parameters={"beta": "<b>"}),
        "spec.parameters.beta must be a number, got '<b>'",
    ),
    "parameters none": (lambda f: respec(f, parameters=[]), "spec.parameters must be a table, got []"),
    "system no text": (lambda f: respec(f, system=3), "spec.system must be text in quotes, got 3"),
    "data no hash": (lambda f: respec(f, data="x"), "spec.data must match ^[0-9a-f]{64}$"),
    "no reformer named": (lambda f: respec(f, reformer=None), "lacks reformer in its settings"),
    "detectors none": (
        lambda f: respec(f, detectors=dict.fromkeys(("reconstruction-1",), "x")),
        "spec.detectors.reconstruction-1 must be a table, got 'x'",
    ),
    "no calibration": (
        lambda f: respec(f, parents={"model": "0" * 12, "crafted": "1" * 12}),
        "has no calibration of reconstruction-1 among its parents",
    ),
    "a name for terminals": (
        lambda f: respec(f, detectors={"a\x1b[2J": {}}, parents=parents(f, **{"calibration:a\x1b[2J": ""})),
        "has text that no terminal should print: 'a\\x1b[2J'",
    ),
    "natural under attack": (
        lambda f: respec(f, setting="natural"),
        "has the attack 'cw' in the setting 'natural'",
    ),
    "an unknown setting": (
        lambda f: respec(f, setting="blind"),
        "has the attack 'cw' in the setting 'blind'",
    ),
    "natural and crafted": (
        lambda f: respec(f, NATURAL, parents=parents(f, NATURAL, crafted="0" * 12)),
        "has the attack 'none' in the setting 'natural'",
    ),
    "adaptive and oblivious": (
        lambda f: respec(f, WHITE, setting="oblivious"),
        "has the attack 'adaptive' in the setting 'oblivious'",
    ),
    # cells: thresholds
    "a threshold less": (
        lambda f: told(f, thresholds={"mi-literal": 198.0}),
        "has thresholds of other detectors than its settings",
    ),
    "a threshold no number": (
        lambda f: told(f, thresholds=thresholds(f) | {"mi-literal": "198"}),
        "thresholds.mi-literal must be a number, got '198'",
    ),
    "a threshold not finite": (
        lambda f: told(f, thresholds=thresholds(f) | {"mi-literal": float("inf")}),
        "thresholds.mi-literal must be finite, got inf",
    ),
    "a threshold of its own": (
        lambda f: told(f, thresholds=thresholds(f) | {"mi-literal": 197.5}),
        "has another threshold or remark than",
    ),
    "a remark taken away": (lambda f: told(f, remarks={}), "has another threshold or remark than"),
    "a remark for terminals": (
        lambda f: told(f, remarks={"mi-literal": "poor\nbench: all is well"}),
        "has text that no terminal should print: 'poor\\nbench",
    ),
    "a remark on others": (lambda f: told(f, remarks={"x": "y"}), "has remarks on other detectors"),
    "a remark no text": (
        lambda f: told(f, remarks={"mi-literal": 3}),
        "remarks.mi-literal must be text",
    ),
    # cells: rows
    "a column less": (lambda f: rows(f, "l2", None), "lacks l2"),
    "scores missing": (lambda f: rows(f, "score:mi-literal", None), "lacks score:mi-literal"),
    "a column more": (
        lambda f: rows(f, "score:x", 1.0, kind=pa.float64()),
        "has a column score:x that no such cell has",
    ),
    "labels as text": (
        lambda f: rows(f, "label", "1", kind=pa.string()),
        "has a column label of type object, not int16",
    ),
    "scores as float32": (
        lambda f: rows(f, "score:mi-literal", 1.0, kind=pa.float32()),
        "has a column score:mi-literal of type float32, not float64",
    ),
    "a label missing": (
        lambda f: rows(f, "label", [None] + [1] * (IMAGES - 1)),
        "has a column label of type float64, not int16",
    ),
    "a sample twice": (lambda f: rows(f, "sample", 1), "rows that are not those of 6 images"),
    "images claimed": (lambda f: respec(f, n_examples=7), "rows that are not those of 7 images"),
    "a sample beyond": (
        lambda f: rows(f, "sample", [0, 1, 2, 3, 4, 360]),
        "has a sample beyond the 360 test images of digits",
    ),
    "a negative sample": (
        lambda f: rows(f, "sample", [-1, 1, 2, 3, 4, 5]),
        "has a sample that is negative or not finite",
    ),
    "a label beyond": (lambda f: rows(f, "label", 10), "has a label beyond the 10 classes of digits"),
    "an answer beyond": (
        lambda f: rows(f, "reformed_prediction", 11),
        "has a reformed_prediction beyond the 10 classes of digits",
    ),
    "a negative answer": (
        lambda f: rows(f, "prediction", -1),
        "has a prediction that is negative or not finite",
    ),
    "a norm not finite": (
        lambda f: rows(f, "linf", float("nan")),
        "has a linf that is negative or not finite",
    ),
    "a norm below zero": (lambda f: rows(f, "l1", -0.5), "has a l1 that is negative or not finite"),
    "passes without end": (
        lambda f: rows(f, "forwards", float("inf")),
        "has a forwards that is negative or not finite",
    ),
    "a score not finite": (
        lambda f: rows(f, "score:mi-literal", float("nan")),
        "has a score of mi-literal that is not finite",
    ),
    "a flag too many": (
        lambda f: rows(f, "flag:mi-literal", True),
        "has flags of mi-literal that are not its scores at the threshold",
    ),
    "a score at the threshold": (
        lambda f: rows(f, "score:reconstruction-1", [300.0, 300.0, 300.0, 198.0, 10.0, 10.0]),
        "has flags of reconstruction-1 that are not its scores",
    ),
    "natural images changed": (
        lambda f: rows(f, "linf", 0.1, NATURAL),
        "has natural images that were changed",
    ),
    "reformed by nothing": (
        lambda f: respec(f, reformer=""),
        "has images that were reformed, without a reformer",
    ),
    # calibrations
    "card cut": (lambda f: packed(f | {some(f, LOOSE, ".json"): b"{"}), "is damaged ("),
    "card of others": (lambda f: card(f, seed=1), "its settings give"),
    "card's hash": (lambda f: card(f, sha256="0" * 64), "is not what its card describes"),
    "card elsewhere": (
        lambda f: recard(f, dataset="mnist"),
        "its settings say calibrations/mnist/",
    ),
    "a rate of all": (lambda f: recard(f, rate=1.0), "spec.rate must be below 1, got 1.0"),
    "images no number": (lambda f: recard(f, images=-1), "spec.images must be at least 0, got -1"),
    "threshold no number": (lambda f: card(f, threshold="5"), "threshold must be a number, got '5'"),
    "threshold not finite": (lambda f: card(f, threshold=float("nan")), "threshold must be finite, got nan"),
    "near not finite": (lambda f: card(f, near=None), "near must be a number, got None"),
    "a gate hushed up": (
        lambda f: card(f, "calibrations/digits/mi-literal-", remark=""),
        "has no remark on generator, which fails its gate",
    ),
    "an error hushed up": (
        lambda f: card(f, figures={"autoencoder-1": {"held_out_error": 0.5}}),
        "has no remark on autoencoder-1, which fails its gate",
    ),
    "remark no text": (lambda f: card(f, remark=[]), "remark must be text in quotes, got []"),
    "a lower threshold": (
        lambda f: scored(f, {"scores": SCORES}, threshold=197.0),
        "has 3 of 200 scores at its card's threshold, its rate gives 2",
    ),
    "a higher threshold": (
        lambda f: scored(f, {"scores": SCORES}, threshold=199.0),
        "has 1 of 200 scores at its card's threshold, its rate gives 2",
    ),
    "a threshold between": (
        lambda f: scored(f, {"scores": SCORES}, threshold=197.5),
        "has 2 of 200 scores at its card's threshold",
    ),
    "tied scores": (
        lambda f: scored(f, {"scores": np.minimum(SCORES, 197.0)}, threshold=197.0),
        "has 3 of 200 scores at its card's threshold, its rate gives 2",
    ),
    "another rate": (
        lambda f: recard(f, rate=0.02),
        "has 2 of 200 scores at its card's threshold, its rate gives 4",
    ),
    "few scores": (
        lambda f: scored(f, {"scores": SCORES[-9:]}),
        "has 2 of 9 scores at its card's threshold, its rate gives 0",
    ),
    "scores not finite": (
        lambda f: scored(f, {"scores": np.where(SCORES == 5, np.inf, SCORES)}),
        "has scores that are not one finite float64 for each image",
    ),
    "scores in float32": (
        lambda f: scored(f, {"scores": SCORES.astype(np.float32)}),
        "has scores that are not one finite float64",
    ),
    "scores in two": (
        lambda f: scored(f, {"scores": SCORES.reshape(2, 100)}),
        "has scores that are not one finite float64",
    ),
    "more than scores": (
        lambda f: scored(f, {"scores": SCORES, "x": SCORES}),
        "holds scores, x, not scores",
    ),
    "scores of too many": (
        lambda f: scored(f, {"scores": np.arange(1001.0)}, "calibrations/digits/mi-literal-"),
        "has scores of 1001 images, its settings allow 1000",
    ),
    "scores no safetensors": (
        lambda f: packed(f | {some(f, LOOSE, ".safetensors"): b"x" * 40}),
        "is no safetensors file",
    ),
    "no scores": (
        lambda f: packed(without(f, some(f, LOOSE, ".safetensors"))),
        "is there without the scores that its threshold comes from",
    ),
    # the other cards
    "an attack elsewhere": (
        lambda f: packed({n.replace("/white-", "/grey-") if "/white-" in n else n: c for n, c in f.items()}),
        "its settings say crafted/digits/detectors/white-",
    ),
    "images at another κ": (
        lambda f: packed({n.replace("/cw-k0-", "/cw-k5-"): c for n, c in f.items()}),
        "its settings say crafted/digits/detectors/cw-k0-on-",
    ),
    "a part among the crafted": (
        lambda f: packed(
            f | {some(f, "crafted/", ".json"): f[some(f, "checkpoints/digits/autoencoder-1", ".json")]}
        ),
        "is no craft or adapt",
    ),
    # images of generators
    "images no zip file": (lambda f: images(f, b"x" * 40), "BadZipFile"),
    "images a pickle": (
        lambda f: images(f, npz(label=np.array([{}, 0, 2], dtype=object))),
        "is damaged (Object arrays cannot be loaded",
    ),
    "images a bomb": (lambda f: images(f, bomb()), "claims to be absurdly large"),
    "images cut short": (lambda f: images(f, npz()[:-9]), "BadZipFile"),
    "images of other classes": (
        lambda f: images(f, npz(**generated(9)._replace(label=np.array([2, 0, 2]))._asdict())),
        "has images of 9 classes, digits has 10",
    ),
    "a class beyond": (lambda f: images(f, npz(label=np.array([2, 0, 10]))), "has a class outside 0 … 9"),
    "an array more": (lambda f: images(f, npz(more=np.zeros(1))), "it does not hold x, reconstruction"),
    "images as numbers": (lambda f: images(f, npz(x=np.zeros((3, 1, 8, 8)))), "x is float64"),
    "an old header": (lambda f: images(f, old_header()), "UserWarning"),
}


def thresholds(files: Files) -> dict[str, float]:
    found: dict[str, float] = story_of(files[some(files, CW)])["thresholds"]
    return found


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
    there = some(files, CW)
    write_atomic(out / there, files[there])
    before = tree(tmp_path)
    said = bench("import", archive, "--out", out)
    assert said.status == 2, said.out
    assert reason in said.err
    assert len(said.err.strip().splitlines()) == 1
    assert said.err.strip().isprintable()
    assert len(said.err) < 1000
    assert tree(tmp_path) == before


def test_reasons_are_told_apart() -> None:
    reasons = [re.sub(r"[\d.]+", "", reason) for _, reason in HOSTILE.values()]
    assert len(set(reasons)) > 0.75 * len(reasons)


def test_a_damaged_cell_of_a_store_is_not_packed(bench: Bench, store: Path, tmp_path: Path) -> None:
    path = store / next(name for name in finished(store) if name.startswith(CW))
    path.write_bytes(path.read_bytes()[:-30])
    said = bench("export", store, tmp_path / "a.zip")
    assert said.status == 2
    assert f"{path.name} is damaged" in said.err
    assert not (tmp_path / "a.zip").exists()


def test_the_store_of_these_tests_is_as_planned(made: Path) -> None:
    cells = [read_detection(path) for path in find_detections(made)]
    assert {cell.spec["system"] for cell in cells} == set(SYSTEMS.split(","))
    assert {cell.spec["setting"] for cell in cells} == {"natural", "oblivious", "white", "grey"}
    assert {name for cell in cells for name in cell.remarks} == {"mi-literal"}
    assert len(cells) == 2 * (1 + 2 * 3 + 2)
