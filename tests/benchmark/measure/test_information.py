"""`bench estimate-mi` from nothing to its table, its lines by hand, and learning.csv."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from robustness_bench.benchmark.data import locate
from robustness_bench.benchmark.errors import StoreError
from robustness_bench.benchmark.measure.information import _blocks
from robustness_bench.benchmark.plan.protocol import load_protocol
from robustness_bench.benchmark.plan.tasks import Task, make_mi_plan
from robustness_bench.benchmark.report.lines.information import COLUMNS, MILine, mi_lines, to_csv
from robustness_bench.benchmark.report.lines.trained import find_trainings, learning
from robustness_bench.benchmark.store.cards import card_of, read_card, save_tensors
from robustness_bench.benchmark.store.folder import is_done
from robustness_bench.benchmark.store.information import (
    MIRecord,
    find_mi_records,
    read_mi_record,
    write_mi_record,
)
from tests.conftest import Bench

TINY = ["--epochs", 2, "--train-limit", 100, "--width", 2, "--n-examples", 12, "--norm", "linf"]
ESTIMATE = ["estimate-mi", *TINY, "--attacks", "pgd-40", "--defense", "standard", "--workers", 1]
BOTH = ["--objective", "eq-5,standard"]
NAMES = {
    "eq-5": ["natural_of_x", "natural_of_x_adv", "adversarial_of_x", "adversarial_of_x_adv"],
    "standard": ["standard_of_x", "standard_of_x_adv", "standard_across"],
}
SHOWN = {
    "eq-5": ["E_n(x; h(x))", "E_n(x; h(x̃))", "E_a(n; h(x))", "E_a(n; h(x̃))"],
    "standard": ["Ê(x; h(x))", "Ê(x̃; h(x̃))", "Ê(x; h(x̃))"],
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small estimators, and the better of two epochs."""
    file = tmp_path_factory.mktemp("config") / "mi.toml"
    file.write_text(
        '[training]\nselection = "best"\nholdout = 0.2\n[estimators]\nunits = 8\nattack_steps = 2\n'
    )
    return file


@pytest.fixture(scope="module")
def store(bench: Bench, tmp_path_factory: pytest.TempPathFactory, config: Path) -> Path:
    """A store with the estimates of one model by two objectives."""
    out = tmp_path_factory.mktemp("estimated") / "results"
    said = bench(*ESTIMATE, *BOTH, "--config", config, "--out", out)
    assert said.status == 0, said.err
    return out


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_estimates_from_nothing(store: Path) -> None:
    """Every number of mi.csv is the mean of a column of a Parquet file."""
    files = find_mi_records(store)
    assert [file.parent.relative_to(store).as_posix() for file in files] == ["mi/digits/linf/standard"] * 2
    assert [file.name.rpartition("-seed0-")[0] for file in files] == ["pgd-40-eq-5", "pgd-40-standard"]
    assert len(list(store.glob("checkpoints/digits/*.safetensors"))) == 3  # the model, two estimators
    assert len(list(store.glob("crafted/digits/linf/*.safetensors"))) == 1
    assert not list(store.rglob("*.partial"))
    found = rows((store / "mi.csv").read_text())
    assert tuple(found[0]) == COLUMNS
    assert [(row["objective"], row["estimate"]) for row in found] == [
        (objective, name) for objective, names in NAMES.items() for name in names
    ]
    facts = ["sample", "label", "clean_prediction", "adversarial_prediction"]
    for file, objective in zip(files, NAMES, strict=True):
        table = pq.read_table(file, partitioning=None)
        assert table.column_names == [*facts, *NAMES[objective]]
        columns = {name: table.column(name).to_numpy() for name in table.column_names}
        assert len(set(columns["sample"].tolist())) == 12
        right = columns["clean_prediction"] == columns["label"]
        chosen = right & (columns["adversarial_prediction"] != columns["label"])
        for row in (row for row in found if row["objective"] == objective):
            values = columns[row["estimate"]].astype(np.float64)
            assert np.isfinite(values).all()
            assert row["mean"] == f"{values.sum() / 12:.5f}"
            assert row["per_seed"] == f"0:{row['mean']}"
            assert (row["seeds"], row["images"], row["std"]) == ("1", "12", "")
            assert row["selected_images"] == str(chosen.sum())
            expected = f"{values[chosen].sum() / chosen.sum():.5f}" if chosen.any() else ""
            assert row["selected_mean"] == expected
            told = (row["dataset"], row["norm"], row["eps"], row["defense"], row["attack"])
            assert told == ("digits", "linf", "0.18", "standard", "pgd-40")


def test_estimates_are_those_of_the_kept_estimators(store: Path) -> None:
    """Measured again from the store's own files, all images at once."""
    import torch

    from robustness_bench.benchmark.context import Context
    from robustness_bench.benchmark.store.cards import load_tensors
    from robustness_bench.benchmark.store.models import load_estimators, load_model

    record = read_mi_record(find_mi_records(store)[0])
    protocol = load_protocol(None, {"defenses": ["standard"], "norms": ["linf"]})
    tasks = make_mi_plan(protocol, digits(), ["eq-5"])
    context = Context(out=store, device="cpu", batch_size=0, threads=1)
    splits = tasks[0].data.load()
    x = torch.from_numpy(splits.test_x[record.rows["sample"]]).float() / 255
    assert (splits.test_y[record.rows["sample"]] == record.rows["label"]).all()
    (crafted,) = store.glob("crafted/digits/linf/*.safetensors")
    x_adv = load_tensors(crafted)["x_adv"]
    assert (x_adv - x).abs().max() <= record.spec["eps"] + 1e-6
    kept = {path.name.partition("-")[0]: path for path in store.glob("checkpoints/digits/*.safetensors")}
    model_task, estimator_task = (
        _stored(tasks, kind, path.relative_to(store))
        for kind, path in (
            ("train", kept["standard"]),
            ("estimators", next(store.glob("checkpoints/digits/estimators-eq-5*.safetensors"))),
        )
    )
    model, module = load_model(model_task, context), load_estimators(estimator_task, context)
    with torch.no_grad():
        h, h_adv = model(x), model(x_adv)
        estimates = module.measure(x, x_adv, h, h_adv)
    assert (h.argmax(1).numpy() == record.rows["clean_prediction"]).all()
    assert (h_adv.argmax(1).numpy() == record.rows["adversarial_prediction"]).all()
    assert list(estimates) == list(record.estimates)
    for name, values in estimates.items():
        assert np.allclose(values.numpy(), record.rows[name], atol=1e-5), name


def _stored(tasks: list[Task], kind: str, path: Path) -> Task:
    """A task of this kind as the store's card has it."""
    import dataclasses

    task = next(task for task in tasks if task.kind == kind)
    units = {**task.spec, "width": 2}
    if kind == "estimators":
        units["estimators"] = {**task.spec["estimators"], "units": 8}
    return dataclasses.replace(task, spec=units, path=path)


def test_again_finds_nothing_to_do_and_shows_the_same(bench: Bench, store: Path, config: Path) -> None:
    before = {file: file.read_bytes() for file in [*find_mi_records(store), store / "mi.csv"]}
    said = bench(*ESTIMATE, *BOTH, "--config", config, "--out", store)
    assert said.status == 0, said.err
    assert "nothing to do: all 2 cells are done" in said.out
    assert {file: file.read_bytes() for file in before} == before
    found = {row["estimate"]: f"{float(row['mean']):.2f}" for row in rows((store / "mi.csv").read_text())}
    for objective, names in NAMES.items():
        title = said.out.index(f"Mutual information ({objective}), digits")
        table = said.out[title:].split("Standard AT", 1)
        header = table[0].splitlines()[-2]
        assert header.startswith("L∞, pgd-40")
        places = [header.index(label) for label in SHOWN[objective]]
        assert places == sorted(places)
        assert table[1].split()[: len(names)] == [found[name] for name in names]
        assert "nats on 12 test images, 1 training seed." in table[0]
    one = bench(*ESTIMATE, "--config", config, "--out", store)  # eq-5 unless said
    assert "nothing to do: all 1 cells are done" in one.out


def test_wrong_input_is_one_line(bench: Bench, tmp_path: Path) -> None:
    for arguments, message in (
        (["--objective", "eq-6"], "unknown objective 'eq-6'; did you mean eq-"),
        (["--objective", "eq-5,autor"], "unknown objective 'autor'; did you mean author"),
        (
            ["--n-examples", 1],
            "mutual information is estimated by comparing images: n-examples must be above 1",
        ),
        (["--attacks", "pgd"], "unknown attack 'pgd'"),
    ):
        said = bench(*ESTIMATE, *arguments, "--out", tmp_path / "r")
        assert said.status == 2
        assert message in said.err
        assert len(said.err.strip().splitlines()) == 1
    assert not (tmp_path / "r").exists()


def test_natural_images_alone_have_no_noise_to_tell_of(bench: Bench, tmp_path: Path) -> None:
    said = bench("estimate-mi", "--norm", "linf", "--attacks", "none", "--out", tmp_path / "r")
    assert said.status == 2
    assert "is estimated under attacks: name one other than none" in said.err
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("damage", ["truncated", "altered", "empty", "other format", "no story"])
def test_a_damaged_file_is_named(bench: Bench, tmp_path: Path, damage: str) -> None:
    task = a_task()
    path = tmp_path / task.path
    write_mi_record(path, task, measured(500), environment={}, seconds=0.0)
    content = bytearray(path.read_bytes())
    if damage in ("other format", "no story"):
        table = pq.read_table(path, partitioning=None)
        story = table.schema.metadata[b"bench"].replace(b'"format": 1', b'"format": 9')
        table = table.replace_schema_metadata({b"bench": story} if damage == "other format" else None)
        pq.write_table(table, path)
    else:
        content[60] ^= 0xFF
        path.write_bytes(bytes({"truncated": content[:-40], "altered": content, "empty": b""}[damage]))
    told = "is damaged .*; delete it and run the same command again"
    if damage == "other format":
        told = "has format 9, this is bench's format 1: use the version that wrote it, or another --out"
    with pytest.raises(StoreError, match=f"{path.name} {told}"):
        read_mi_record(path)
    defaults = ["--defense", "standard", "--norm", "linf", "--attacks", "pgd-40"]
    said = bench("estimate-mi", *defaults, "--out", tmp_path)
    assert said.status == 2
    assert path.name in said.err
    assert len(said.err.strip().splitlines()) == 1


def digits() -> dict[str, Any]:
    return {"digits": locate("digits", Path("data"))}


def a_task() -> Task:
    protocol = load_protocol(
        None,
        {
            "defenses": ["standard"],
            "norms": ["linf"],
            "attacks": {"strict": {"linf": ["pgd-40"]}},
        },
    )
    return make_mi_plan(protocol, digits(), ["eq-5"])[-1]


def measured(n: int) -> dict[str, Any]:
    facts = {name: np.arange(n) % 7 for name in ("label", "clean_prediction", "adversarial_prediction")}
    values = np.random.default_rng(0).normal(size=(4, n)).astype(np.float32)
    return {"sample": np.arange(n), **facts, **dict(zip(NAMES["eq-5"], values, strict=True))}


def test_round_trip(tmp_path: Path) -> None:
    task, columns = a_task(), measured(9)
    path = tmp_path / task.path
    assert task.kind == "measure-mi"
    assert not is_done(tmp_path, task)
    write_mi_record(path, task, columns, environment={"python": "3"}, seconds=1.5)
    record = read_mi_record(path)
    assert (record.id, record.family, record.seed, record.spec) == (task.id, task.family, 0, task.spec)
    assert (record.environment, record.seconds) == ({"python": "3"}, 1.5)
    assert list(record.rows) == list(columns)
    for name, values in columns.items():
        assert record.rows[name].dtype == values.dtype
        assert (record.rows[name] == values).all()
    assert list(record.estimates) == NAMES["eq-5"]
    assert is_done(tmp_path, task)
    (path.parent / ".unfinished.parquet").write_bytes(b"")
    assert find_mi_records(tmp_path) == [path]


def faked(
    seed: int,
    labels: list[int],
    clean: list[int],
    attacked: list[int],
    values: list[float],
    **spec: Any,
) -> MIRecord:
    """A record of one estimate."""
    spec = {
        "dataset": "digits",
        "norm": "linf",
        "eps": 0.18,
        "defense": "standard",
        "attack": "pgd-40",
        "objective": "eq-5",
    } | spec
    family = "-".join(map(str, spec.values()))
    return MIRecord(
        id=f"{family}{seed}",
        family=family,
        seed=seed,
        spec=spec,
        environment={},
        seconds=1.0,
        rows={
            "sample": np.arange(len(labels)),
            "label": np.array(labels),
            "clean_prediction": np.array(clean),
            "adversarial_prediction": np.array(attacked),
            "natural_of_x": np.array(values, dtype=np.float32),
        },
    )


def test_lines_by_hand() -> None:
    """Four images: fooled, survived, wrong from the start, wrong but right when attacked; two seeds."""
    labels = [1, 1, 1, 1]
    second = faked(1, labels, [1, 1, 2, 1], [2, 1, 1, 0], [4.0, 6.0, 8.0, 0.5])  # fooled: 1st and 4th
    first = faked(0, labels, [1, 1, 2, 2], [2, 1, 2, 1], [1.0, 2.0, 4.0, 3.0])  # fooled: 1st
    (line,) = mi_lines([second, first])
    assert line.per_seed == {0: 2.5, 1: 4.625}
    assert list(line.per_seed) == [0, 1]
    assert line.all.mean == pytest.approx(3.5625)
    assert line.all.std == pytest.approx(2.125 / 2**0.5)
    assert (line.all.n, line.images, line.selected_images) == (2, 4, 3)
    assert line.selected == pytest.approx((1.0 + 4.0 + 0.5) / 3)
    (row,) = rows(to_csv([line]))
    assert row["mean"] == "3.56250"
    assert row["std"] == "1.50260"
    assert row["per_seed"] == "0:2.50000 1:4.62500"
    assert row["selected_mean"] == "1.83333"
    assert (row["seeds"], row["images"], row["selected_images"]) == ("2", "4", "3")


def test_nothing_selected_is_no_number() -> None:
    (line,) = mi_lines([faked(0, [1, 1], [1, 0], [1, 0], [1.0, 2.0])])
    assert line.selected is None
    assert line.all == (1.5, None, 1)
    (row,) = rows(to_csv([line]))
    assert (row["selected_mean"], row["selected_images"], row["std"]) == ("", "0", "")


def test_lines_stand_as_in_the_registries() -> None:
    one = ([1], [1], [0], [1.0])
    wanted: list[dict[str, Any]] = [
        {"norm": "linf", "eps": 0.1, "objective": "eq-5", "defense": "trades"},
        {"norm": "linf", "objective": "eq-5", "defense": "undefended"},
        {"norm": "linf", "objective": "eq-5", "defense": "standard"},
        {"norm": "linf", "objective": "eq-5", "defense": "standard", "attack": "aa"},
        {"norm": "linf", "objective": "eq-5", "defense": "from outside and gone"},
        {"norm": "linf", "objective": "eq-4", "defense": "undefended"},
        {"norm": "l2", "objective": "eq-5", "defense": "undefended"},
    ]
    given = [faked(0, *one, **spec) for spec in wanted]
    lines: list[MILine] = mi_lines(reversed(given))
    assert [line.setting for line in lines] == [record.family for record in given]


def test_blocks_cover_all_images_and_leave_none_alone() -> None:
    """An estimate compares an image with the others of its block."""
    for n in (*range(2, 40), 1000, 1499, 1500, 1501, 2499, 2500, 2501, 9999, 10_000):
        blocks = _blocks(n)
        assert [i for block in blocks for i in range(n)[block]] == list(range(n))
        sizes = [block.stop - block.start for block in blocks]
        assert min(sizes) > 1
        assert max(sizes) - min(sizes) <= 1
        assert n <= 1500 or 700 < max(sizes) <= 1334
    assert [block.stop - block.start for block in _blocks(10_000)] == [1000] * 10


def test_learning_has_a_line_per_epoch_and_marks_the_kept_one(
    bench: Bench, store: Path, config: Path
) -> None:
    """Written by `bench run`, for every training the store holds."""
    natural = [
        "run",
        *TINY,
        "--threat",
        "white",
        "--attacks",
        "none",
        "--defense",
        "standard",
        "--workers",
        1,
    ]
    assert bench(*natural, "--config", config, "--out", store).status == 0
    found = rows((store / "learning.csv").read_text())
    cards = {read_card(path)["id"]: (path, read_card(path)) for path in find_trainings(store)}
    assert len(cards) == 3
    assert len(found) == 2 * 3
    for identity, (path, card) in cards.items():
        own = [row for row in found if row["id"] == identity]
        assert [row["epoch"] for row in own] == ["1", "2"]
        assert [row["kept"] for row in own] == [str(number == card["epoch"]) for number in (1, 2)]
        assert f"{own[0]['training']}-{identity}.safetensors" == path.name
        for row, entry in zip(own, card["history"], strict=True):
            assert (row["dataset"], row["seed"]) == ("digits", "0")
            assert float(row["lr"]) == pytest.approx(entry["lr"], rel=1e-5)
            assert float(row["gradient_norm"]) == pytest.approx(entry["gradient_norm"], rel=1e-5)
            held = dict(pair.split("=") for pair in row["held_out"].split())
            terms = dict(pair.split("=") for pair in row["terms"].split())
            assert held == {n[9:]: f"{v:.4f}" for n, v in entry.items() if n.startswith("held_out_")}
            assert all(f"{entry[name]:.4f}" == value for name, value in terms.items())
            assert set(terms) in ({"adversarial"}, {"natural", "adversarial"}, {"standard"}, set())
    (model,) = (row for row in found if row["training"].startswith("standard-") and row["kept"] == "True")
    assert set(dict(pair.split("=") for pair in model["held_out"].split())) == {"natural", "pgd"}


def test_learning_by_hand(tmp_path: Path) -> None:
    """And a checkpoint whose card a kill has cost is none yet: the run that needs it makes it anew."""
    import torch

    entry = {"adversarial": 1.5, "gradient_norm": 2.0, "lr": 0.1, "held_out_natural": 50.0}
    history = [
        {**entry, "seconds": 1.25, "images_per_second": 80.0},
        {**entry, "seconds": 1.0, "images_per_second": 8.0},
    ]
    card = {"id": "abc", "seed": 3, "spec": {"dataset": "digits"}, "history": history, "epoch": 1}
    path = tmp_path / "checkpoints" / "digits" / "trades-seed3-abc.safetensors"
    save_tensors(path, {"w": torch.zeros(1)}, card)
    given = tmp_path / "checkpoints" / "digits" / "given-def.safetensors"
    save_tensors(given, {"w": torch.zeros(1)}, {"id": "def", "seed": 0, "spec": {"dataset": "digits"}})
    half = tmp_path / "checkpoints" / "digits" / "namid-seed3-ghi.safetensors"
    save_tensors(half, {"w": torch.zeros(1)}, card)
    card_of(half).unlink()
    assert learning(find_trainings(tmp_path)) == (
        "dataset,training,seed,epoch,kept,lr,gradient_norm,seconds,images_per_second,held_out,terms,id\n"
        "digits,trades-seed3,3,1,True,0.1,2,1.25,80,natural=50.0000,adversarial=1.5000,abc\n"
        "digits,trades-seed3,3,2,False,0.1,2,1,8,natural=50.0000,adversarial=1.5000,abc\n"
    )
