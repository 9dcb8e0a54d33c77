import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from robustness_bench.benchmark.data import locate
from robustness_bench.benchmark.report.lines.worst_case import SUBMITTED, worst_case
from robustness_bench.benchmark.store.cells import Record, find_records, read_record
from tests.conftest import Bench

TINY = ["run", "--defense", "undefended,standard", "--threat", "white", "--epochs", "2", "--width", "4"]
TINY += ["--train-limit", "256", "--n-examples", "12", "--attacks", "none,pgd-40", "--norm", "linf"]
TINY += ["--eps-linf", "0.04"]
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def finished(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("attacked") / "results"
    said = bench(*TINY, "--out", out, "--keep-examples")
    assert said.status == 0, said.err
    return out


@pytest.fixture
def store(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "results"))


def record_of(store: Path, attack: str = "pgd-40", defense: str = "undefended") -> Path:
    (found,) = store.glob(f"records/digits/linf/white/{defense}/{attack}-seed0-*.parquet")
    return found


def far(store: Path) -> Arrays:
    """Images of another class, in place of all that the record's attack did not fool."""
    record, data = read_record(record_of(store)), locate("digits", Path()).load()
    standing = record.rows["sample"][record.robust].astype(np.int64)
    assert 1 <= len(standing) < 12
    labels = data.test_y[standing]
    others = np.array([np.flatnonzero(data.test_y != label)[0] for label in labels])
    return {"sample": standing, "x_adv": data.test_x[others].astype(np.float32) / np.float32(255)}


def near(store: Path) -> Arrays:
    """Images inside ε that fool the model where PGD-40's did not count: those of a larger ε, pulled in."""
    import torch

    from robustness_bench.attacks.registry import build_attack
    from robustness_bench.benchmark.context import Context
    from robustness_bench.benchmark.measure.verification import model_of

    record, located = read_record(record_of(store)), locate("digits", Path())
    data, context = located.load(), Context(out=store, device="cpu", batch_size=0, threads=1)
    model = model_of(store, record, located, context)
    sample = record.rows["sample"].astype(np.int64)
    x = torch.from_numpy(np.asarray(data.test_x[sample])).float() / 255
    y = torch.from_numpy(np.asarray(data.test_y[sample]))
    found = build_attack(record.spec["parameters"])(model, x, y, ids=torch.from_numpy(sample), seed=0)
    return {"sample": sample, "x_adv": found.x_adv.numpy()}


def weaker(store: Path) -> None:
    """The attack's record as if it had fooled nobody, so that there is something to improve on."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = record_of(store)
    table = pq.read_table(path, partitioning=None)
    clean = table.column("clean_prediction")
    at = table.schema.get_field_index("adversarial_prediction")
    table = table.set_column(at, table.schema.field(at), clean)
    zeros = pa.array(np.zeros(len(clean), np.float32))
    for norm in ("linf", "l2", "l1"):
        at = table.schema.get_field_index(norm)
        table = table.set_column(at, table.schema.field(at), zeros)
    story = table.schema.metadata[b"bench"]
    pq.write_table(table.replace_schema_metadata({b"bench": story}), path)  # without the hash of other rows


def send(bench: Bench, store: Path, tensors: Arrays, **change: object) -> "tuple[int, str, str]":
    path = store.parent / "sent.safetensors"
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, path)
    options = {"--against": record_of(store), "--name": "Pulled In", "--author": "Ada", **change}
    said = bench("submit", "attack", path, *(word for option in options.items() for word in option))
    return said.status, said.out, said.err


def worst(store: Path) -> dict[str, float | None]:
    lines = worst_case([read_record(path) for path in find_records(store)], "strict")
    return {line.defense: line.bounded.mean if line.bounded else None for line in lines}


def sent_record(store: Path) -> Record:
    (path,) = store.glob("records/digits/linf/white/undefended/submitted-*.parquet")
    return read_record(path)


def test_stronger_images_lower_the_worst_case_of_their_model_only(bench: Bench, store: Path) -> None:
    images = near(store)
    before_weakening = worst(store)
    weaker(store)
    before = worst(store)
    status, out, err = send(bench, store, images, **{"--link": "https://example.org/paper"})
    assert status == 0, err
    assert shlex.split(sent_record(store).environment["command"])[:3] == ["bench", "submit", "attack"]
    after = worst(store)
    assert after["standard"] == before["standard"]
    assert after["undefended"] == before_weakening["undefended"] != before["undefended"]
    record = sent_record(store)
    assert record.spec["kind_of_attack"] == SUBMITTED
    assert record.spec["parameters"]["authors"] == ["Ada"]
    assert record.spec["parameters"]["link"] == "https://example.org/paper"
    fooled = int((record.clean & ~record.robust).sum())
    assert f"{fooled} of 12 images hold against undefended, seed 0" in out
    assert "× is classified correctly" in out
    assert bench("verify", next(store.glob("records/**/submitted-*.parquet"))).status == 0


def test_the_tables_count_them_and_give_credit(bench: Bench, store: Path) -> None:
    images = near(store)
    weaker(store)
    assert bench(*TINY, "--out", store).status == 0
    page = store / "tables" / "digits-white.html"
    before = page.read_text()
    assert send(bench, store, images)[0] == 0
    said = bench(*TINY, "--out", store)
    assert "nothing to do" in said.out
    assert page.read_text() != before
    assert "submitted-pulled-in against undefended" in " ".join(said.out.split())


def test_the_same_file_twice_is_one_record(bench: Bench, store: Path) -> None:
    images = near(store)
    assert send(bench, store, images)[0] == 0
    first = sent_record(store)
    assert send(bench, store, images)[0] == 0
    assert sent_record(store).id == first.id


def test_images_outside_the_budget_change_nothing(bench: Bench, store: Path) -> None:
    before = sorted(store.rglob("*"))
    status, out, _ = send(bench, store, far(store))
    assert status == 1
    assert "0 of" in out
    assert "× is farther away than ε = 0.04" in out
    assert sorted(store.rglob("*")) == before


BAD: dict[str, tuple[Callable[[Arrays], Arrays], str]] = {
    "sample twice": (lambda t: {**t, "sample": np.zeros_like(t["sample"])}, "more than once"),
    "a sample of elsewhere": (lambda t: {**t, "sample": t["sample"] + 100_000}, "has no sample"),
    "another shape": (lambda t: {**t, "x_adv": t["x_adv"][:, :, :4]}, "x_adv must be (12, 1, 8, 8)"),
    "fewer images": (lambda t: {**t, "x_adv": t["x_adv"][1:]}, "sample must be (K,) integers"),
    "not finite": (lambda t: {**t, "x_adv": t["x_adv"] * np.float32(np.nan)}, "not finite"),
    "integers": (lambda t: {**t, "x_adv": t["x_adv"].astype(np.int32)}, "must be uint8, or floating"),
    "no sample": (lambda t: {"x_adv": t["x_adv"]}, "must hold sample and x_adv, it has x_adv"),
    "one more": (lambda t: {**t, "y": t["sample"]}, "must hold sample and x_adv"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_line(bench: Bench, store: Path, case: str) -> None:
    change, says = BAD[case]
    before = sorted(store.rglob("*"))
    status, _, err = send(bench, store, change(near(store)))
    assert status == 2
    assert says in err
    assert err.count("\n") == 1
    assert sorted(store.rglob("*")) == before


def test_a_damaged_file_is_one_line(bench: Bench, store: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    save_file({"sample": np.zeros(1, np.int64), "x_adv": np.zeros((1, 1, 8, 8), np.float32)}, path)
    path.write_bytes(path.read_bytes()[:-4])
    said = bench("submit", "attack", path, "--against", record_of(store), "--name", "x", "--author", "y")
    assert said.status == 2
    assert "cut.safetensors is damaged" in said.err


def test_bad_names_and_targets_are_one_line(bench: Bench, store: Path) -> None:
    images = near(store)
    assert "<, > and & are rejected" in send(bench, store, images, **{"--name": "<b>x</b>"})[2]
    assert "http or https" in send(bench, store, images, **{"--link": "javascript:alert(1)"})[2]
    assert "is no record" in send(bench, store, images, **{"--against": store / "results.csv"})[2]
    shutil.rmtree(store / "checkpoints")
    assert "the weights of undefended" in send(bench, store, images)[2]


def test_images_as_bytes_are_taken_too(bench: Bench, store: Path) -> None:
    images = near(store)
    rounded = np.rint(images["x_adv"] * 255).astype(np.uint8)
    status, out, _ = send(bench, store, {**images, "x_adv": rounded})
    assert status in (0, 1)
    assert "of 12 images hold" in out
