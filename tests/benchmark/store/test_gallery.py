from pathlib import Path

import numpy as np
import pytest

from robustness_bench.benchmark.errors import StoreError
from robustness_bench.benchmark.store.cells import find_records, read_record
from robustness_bench.benchmark.store.gallery import Examples, examples_of, read_examples, write_examples
from tests.conftest import Bench

TINY = ["run", "--defense", "undefended", "--norm", "linf", "--attacks", "none,pgd-40", "--epochs", 1]
TINY += ["--train-limit", 32, "--width", 2, "--n-examples", 12]


def made(bench: Bench, out: Path, *more: object) -> dict[str, Path]:
    """threat, attack and seed -> a record."""
    said = bench(*TINY, "--out", out, *more)
    assert said.status == 0, said.err
    records = {path: read_record(path) for path in find_records(out)}
    return {f"{r.spec['threat']} {r.spec['attack']} {r.seed}": path for path, r in records.items()}


def test_a_run_keeps_the_first_images_of_the_first_seed(bench: Bench, tmp_path: Path) -> None:
    records = made(bench, tmp_path, "--seeds", 2, "--batch-size", 5)
    assert {name for name, path in records.items() if examples_of(path).is_file()} == {
        "white pgd-40 0",
        "black pgd-40 0",
    }
    for name in ("white pgd-40 0", "black pgd-40 0"):
        images, record = read_examples(examples_of(records[name])), read_record(records[name])
        assert images.x.shape == images.x_adv.shape == (8, *images.x.shape[1:])
        assert images.x.dtype == np.uint8
        assert images.x_adv.dtype == np.float32
        moved = np.abs(images.x_adv - images.x / np.float32(255)).reshape(8, -1).max(1)
        assert moved == pytest.approx(record.distance[:8], abs=1e-6)
        assert images.label.tolist() == record.rows["label"][:8].tolist()
        assert images.adversarial_prediction.tolist() == record.rows["adversarial_prediction"][:8].tolist()
        assert images.clean_prediction.tolist() == record.rows["clean_prediction"][:8].tolist()


def test_none_are_kept_where_none_are_wanted(bench: Bench, tmp_path: Path) -> None:
    made(bench, tmp_path, "--gallery", 0, "--threat", "white")
    assert not (tmp_path / "examples").exists()
    said = bench(*TINY, "--out", tmp_path, "--gallery", -1)
    assert said.status == 2
    assert "--gallery must be 0 (none) or more, got -1" in said.err


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    empty = np.zeros((0,), np.int64)
    path = tmp_path / "cell.safetensors"
    images = np.zeros((0, 1, 8, 8), np.uint8)
    write_examples(path, Examples(images, images.astype(np.float32), empty, empty, empty))
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(StoreError, match=r"cell\.safetensors is damaged"):
        read_examples(path)
