import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from robustness_bench.benchmark.errors import StoreError
from robustness_bench.benchmark.store.cells import find_records, read_record
from robustness_bench.benchmark.store.evidence import (
    Evidence,
    evidence_of,
    pack,
    read_evidence,
    unpack,
    write_evidence,
)
from tests.conftest import Bench
from tests.support import small_model

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (6, 3, 8, 8), np.uint8)
NATURAL = X.astype(np.float32) / np.float32(255)
TINY = ["run", "--defense", "undefended", "--threat", "white", "--epochs", 2, "--train-limit", 256]
TINY += ["--width", 4, "--n-examples", 12, "--attacks", "none,pgd-40,ddn"]


@pytest.fixture(scope="module")
def kept(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with evidence of three cells: PGD in both norms, DDN."""
    out = tmp_path_factory.mktemp("kept") / "results"
    said = bench(*TINY, "--out", out, "--keep-examples", "--batch-size", 5)
    assert said.status == 0, said.err
    return out


@pytest.fixture
def store(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "results"))


def record_of(store: Path, attack: str, norm: str = "linf") -> Path:
    (found,) = store.glob(f"records/digits/{norm}/white/undefended/{attack}-seed0-*.parquet")
    return found


def test_pixels_on_the_grid_become_bytes_and_come_back_exactly() -> None:
    x_adv = RNG.integers(0, 256, X.shape).astype(np.float32) / np.float32(255)
    form, stored = pack(X, x_adv, lambda images: False)
    assert form == str(stored.dtype) == "uint8"
    assert np.array_equal(unpack(form, stored, X), x_adv)


def test_half_precision_never_lengthens_a_perturbation_and_is_asked_for_its_effect() -> None:
    x_adv = (NATURAL + RNG.uniform(-0.03, 0.03, X.shape)).clip(0, 1).astype(np.float32)
    asked = []

    def holds(images: np.ndarray) -> bool:
        asked.append(images)
        return True

    form, stored = pack(X, x_adv, holds)
    assert form == str(stored.dtype) == "float16"
    back = unpack(form, stored, X)
    assert np.array_equal(asked[0], back)
    assert np.abs(back - x_adv).max() < 3e-5
    assert (np.abs(back - NATURAL) <= np.abs(x_adv - NATURAL) + 1e-7).all()
    assert np.abs(back - NATURAL).max() > 0.029


def test_where_half_precision_undoes_an_image_all_are_kept_as_they_were() -> None:
    x_adv = (NATURAL + np.float32(1e-3) / 3).clip(0, 1).astype(np.float32)
    form, stored = pack(X, x_adv, lambda images: False)
    assert form == "float32"
    assert np.array_equal(unpack(form, stored, X), x_adv)


@pytest.mark.parametrize("form", ["uint8", "float16", "float32"])
def test_a_file_comes_back_and_damage_is_named(tmp_path: Path, form: str) -> None:
    stored = (NATURAL * 200).astype(form)
    evidence = Evidence("abc", np.array([1, 4, 5, 8, 9, 70_000]), form, stored)  # type: ignore[arg-type]
    path = tmp_path / "e.parquet"
    write_evidence(path, evidence)
    back = read_evidence(path)
    assert (back.record, back.sample.tolist(), back.form) == ("abc", evidence.sample.tolist(), form)
    assert np.array_equal(back.stored, stored)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(StoreError, match=r"e\.parquet is damaged"):
        read_evidence(path)


def test_a_run_keeps_every_image_that_fooled_and_they_verify(bench: Bench, store: Path) -> None:
    said = bench("verify", store)
    assert said.status == 0, said.out
    assert len(said.out.splitlines()) == 3
    entries = {entry["record"]: entry for entry in json.loads(bench("verify", store, "--json").out)}
    for path in find_records(store):
        record = read_record(path)
        fooled = record.clean & ~record.withstood
        if record.spec["attack"] == "none":
            assert not evidence_of(path).exists()
            continue
        evidence = read_evidence(evidence_of(path))
        assert evidence.record == record.id
        assert evidence.sample.tolist() == record.rows["sample"][fooled].tolist()
        within = int((fooled & ~record.robust).sum())
        counts = f"{fooled.sum()} of {fooled.sum()} images hold, {within} within"
        assert (
            f"{record.spec['norm']} white-box undefended × {record.spec['attack']}, seed 0: {counts}"
            in said.out
        )
        entry = entries.pop(record.id)
        assert (entry["attack"], entry["hold"], entry["within"]) == (
            record.spec["attack"],
            fooled.sum(),
            within,
        )
        assert entry["faults"] == {}
    assert not entries


def spoil(path: Path, reason: str) -> None:
    """Change the first image so that it fails for this reason at least."""
    evidence, record = read_evidence(evidence_of(path)), read_record(path)
    assert evidence.form == "float16"
    sample, stored = evidence.sample.copy(), evidence.stored.astype(np.float32)
    if reason == "is classified correctly":
        stored[0] = 0
    elif reason == "is farther away than recorded":
        stored[0] *= 1.01
    elif reason == "leaves the pixel box":
        evidence = evidence._replace(form="float32")
        stored[:] = 1.5
    else:
        sample[0] = record.rows["sample"][~record.clean][0]
    kind = np.dtype(evidence.form)
    write_evidence(evidence_of(path), evidence._replace(sample=sample, stored=stored.astype(kind)))


@pytest.mark.parametrize(
    "reason",
    [
        "is classified correctly",
        "is farther away than recorded",
        "the natural image is misclassified",
        "leaves the pixel box",
    ],
)
def test_an_image_that_does_not_hold_is_counted(bench: Bench, store: Path, reason: str) -> None:
    path = record_of(store, "pgd-40")
    spoil(path, reason)
    said = bench("verify", path)
    assert said.status == 1
    assert f" × {reason}" in said.out


def test_a_cell_that_has_no_image_to_keep_verifies() -> None:
    """Its attack fooled nothing."""
    import torch

    from robustness_bench.benchmark.measure.attacks import Sample
    from robustness_bench.benchmark.measure.verification import judge

    none = torch.zeros(0, dtype=torch.int64)
    piece = Sample(none, torch.zeros(0, 1, 8, 8), none)
    found = judge(small_model(), piece, piece.x.numpy(), norm="linf", limits=np.zeros(0), too_far="far")
    assert (len(found.hold), len(found.distance), found.faults) == (0, 0, {})


def test_what_cannot_be_verified_is_one_line(bench: Bench, store: Path, tmp_path: Path) -> None:
    record = record_of(store, "pgd-40")
    natural = record_of(store, "none")
    assert "add --keep-examples to the run" in bench("verify", natural).err
    assert "is no record" in bench("verify", store / "results.csv").err
    assert "no record under" in bench("verify", tmp_path / "results" / "tables").err
    other = evidence_of(record_of(store, "ddn", "l2"))
    shutil.copy(other, evidence_of(record))
    assert "is for " in bench("verify", record).err
    shutil.rmtree(store / "checkpoints")
    shutil.copy(evidence_of(record_of(store, "pgd-40", "l2")), other)
    said = bench("verify", record_of(store, "pgd-40", "l2"))
    assert said.status == 2
    assert "the weights of undefended" in said.err
