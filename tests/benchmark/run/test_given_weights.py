"""`--weights`: a model that is given in place of one that is trained, from its file to the table."""

import csv
import hashlib
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from robustness_bench.benchmark.plan.tasks import weights_hash
from robustness_bench.benchmark.store.cards import load_tensors, read_card
from robustness_bench.benchmark.store.cells import Record, find_records, read_record
from tests.conftest import Bench, Said

TINY = ["--width", 2, "--n-examples", 12, "--norm", "linf", "--threat", "white", "--attacks", "pgd-40"]
GIVEN = ["run", *TINY, "--defense", "standard", "--workers", 1]
EPS = 0.03
COMPARED = ("sample", "label", "clean_prediction", "adversarial_prediction", "linf", "l2", "l1")


@pytest.fixture(autouse=True)
def _clean() -> None:
    """No hash from before, as in a process of its own."""
    weights_hash.cache_clear()


@pytest.fixture(scope="module")
def original(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a model that was trained, long enough to tell some images from others."""
    out = tmp_path_factory.mktemp("original") / "results"
    config = tmp_path_factory.mktemp("config") / "quick.toml"
    config.write_text("[training]\nattack_steps = 1\n")
    recipe = ["--epochs", 6, "--train-limit", 500, "--eps-linf", EPS, "--config", config]
    said = bench(*GIVEN, *recipe, "--out", out)
    assert said.status == 0, said.err
    return out


@pytest.fixture
def weights(original: Path) -> Path:
    (file,) = original.glob("checkpoints/digits/standard-*.safetensors")
    return file


def records(out: Path) -> dict[str, Record]:
    """Attack -> its record."""
    return {record.spec["attack"]: record for record in map(read_record, find_records(out))}


def same(a: Record, b: Record, columns: tuple[str, ...] = COMPARED) -> bool:
    return all((a.rows[name] == b.rows[name]).all() for name in columns)


def means(out: Path) -> dict[str, str]:
    return {
        row["attack"]: row["mean"] for row in csv.DictReader((out / "results.csv").read_text().splitlines())
    }


def give(bench: Bench, file: Path, out: Path, *more: object) -> Said:
    return bench(*GIVEN, "--eps-linf", EPS, "--weights", file, "--out", out, *more)


def refused(said: Said, message: str, out: Path) -> None:
    assert said.status == 2
    assert len(said.err.strip().splitlines()) == 1, said.err
    assert message in said.err
    assert not list(out.rglob("*.parquet"))
    assert not list(out.rglob("*.safetensors"))


def test_our_own_checkpoint_gives_the_same_results(
    bench: Bench, original: Path, weights: Path, tmp_path: Path
) -> None:
    """Image by image; nothing is trained, and a second time nothing is done."""
    said = give(bench, weights, tmp_path)
    assert said.status == 0, said.err
    assert f"digits load {weights} as standard" in said.out
    assert " train " not in said.out
    before, after = records(original), records(tmp_path)
    assert set(before) == set(after) == {"none", "pgd-40"}
    assert all(same(before[attack], after[attack]) for attack in before)
    assert means(tmp_path) == means(original)
    assert 0 < before["pgd-40"].robust.mean() < before["none"].robust.mean(), "nothing to tell apart"
    assert not {record.id for record in before.values()} & {record.id for record in after.values()}

    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    read = "input: pixels normalised as the file says, chosen by 512 training images: "
    assert f"resnet-18 of width 2, weights: {weights.name} (SHA-256 {digest[:12]}…); {read}" in " ".join(
        said.out.split()
    )
    (copy,) = tmp_path.glob("checkpoints/digits/*.safetensors")
    card = read_card(copy)
    assert (card["source"], card["spec"]["weights"]) == (str(weights), digest)
    loaded, saved = load_tensors(copy), load_file(weights)
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)
    assert (tmp_path / "learning.csv").read_text().count("\n") == 1  # nothing but the header

    moved = tmp_path / "elsewhere.safetensors"  # where it lies decides nothing
    moved.write_bytes(weights.read_bytes())
    for file in (weights, moved):
        again = give(bench, file, tmp_path)
        assert "nothing to do: all 2 cells are done" in again.out
        assert f"weights: {file.name} (SHA-256 {digest[:12]}…)" in again.out
    assert {attack: record.id for attack, record in records(tmp_path).items()} == {
        attack: record.id for attack, record in after.items()
    }


def test_a_state_dict_of_pytorch_gives_the_same_results(
    bench: Bench, original: Path, weights: Path, tmp_path: Path
) -> None:
    file = tmp_path / "mine.pt"
    torch.save(load_file(weights), file)
    assert give(bench, file, tmp_path / "r").status == 0
    before, after = records(original), records(tmp_path / "r")
    assert all(same(before[attack], after[attack]) for attack in before)


def test_what_is_in_a_file_decides_the_cells(bench: Bench, weights: Path, tmp_path: Path) -> None:
    """The same path with other numbers: new cells beside the old ones."""
    file, out = tmp_path / "mine.safetensors", tmp_path / "r"
    tensors = load_file(weights)
    save_file(tensors, file)
    assert "2 of 2 cells to do" in give(bench, file, out).out
    tensors["1.linear.bias"][0] += 2.0  # so that more images pass for a 0
    save_file(tensors, file)
    weights_hash.cache_clear()
    first = records(out)
    said = give(bench, file, out)
    assert said.status == 0
    assert "2 of 2 cells to do" in said.out
    assert len(find_records(out)) == 4
    second = [record for record in map(read_record, find_records(out)) if record.id != first["none"].id]
    other = next(record for record in second if record.spec["attack"] == "none")
    assert not same(first["none"], other)
    title = said.out.index("White box")
    shown = said.out[title:].split("Standard AT")[-1].split()
    assert shown[0] == f"{100 * other.robust.mean():.1f}"  # the table is of the file as it is now


def test_a_file_that_changes_while_a_run_goes_on_is_refused(
    bench: Bench, weights: Path, tmp_path: Path
) -> None:
    """Between planning, which hashes it, and loading: the hash of this process is of the file before."""
    file = tmp_path / "mine.safetensors"
    tensors = load_file(weights)
    save_file(tensors, file)
    weights_hash(str(file))
    save_file({**tensors, "1.linear.bias": tensors["1.linear.bias"].flip(0)}, file)
    refused(give(bench, file, tmp_path / "r"), f"{file} has changed since the run began", tmp_path / "r")


def test_pixels_as_they_are_are_another_model(
    bench: Bench, original: Path, weights: Path, tmp_path: Path
) -> None:
    """A bare network's file does not tell: the user may, of one that training images do not speak for."""
    file = tmp_path / "bare.pt"
    tensors = load_file(weights)
    torch.save({n.removeprefix("1."): t for n, t in tensors.items() if n.startswith("1.")}, file)
    low = "--weights-accept-low"
    normalised = give(bench, file, tmp_path / "normalised", "--weights-input", "normalised", low)
    assert normalised.status == 0, normalised.err
    assert give(bench, file, tmp_path / "plain", "--weights-plain", low).status == 0
    before, same_pixels, plain = map(records, (original, tmp_path / "normalised", tmp_path / "plain"))
    assert all(same(before[attack], same_pixels[attack]) for attack in before)
    assert not same(before["none"], plain["none"])
    assert plain["none"].id != same_pixels["none"].id
    (copy,) = (tmp_path / "plain").glob("checkpoints/digits/*.safetensors")
    assert load_tensors(copy)["0.mean"].abs().max() == 0
    assert load_tensors(copy)["0.std"].min() == 1


def test_another_width_is_named_with_its_remedy(bench: Bench, weights: Path, tmp_path: Path) -> None:
    said = give(bench, weights, tmp_path, "--width", 4)
    refused(said, f"{weights} does not fit the model:", tmp_path)
    assert "the file has width 2: pass --width 2" in said.err
    assert give(bench, weights, tmp_path).status == 0  # which the store was left fit for


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--defense", "namid"], "is one model: name its one --defense"),
        (["--seeds", 2], "is one model, got 2 seeds: run each file by itself"),
        (["--dataset", "digits,mnist"], "is one model: name its one --dataset"),
    ],
    ids=["defenses", "seeds", "data sets"],
)
def test_one_file_is_one_model(
    bench: Bench, weights: Path, tmp_path: Path, arguments: list[object], message: str
) -> None:
    refused(give(bench, weights, tmp_path / "r", *arguments), f"--weights {weights} {message}", tmp_path)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [("absent.safetensors", "there is no file"), ("folder", "is a folder"), ("empty.pt", "is empty")],
)
def test_no_file_is_named_before_anything_is_done(
    bench: Bench, tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.pt").touch()
    refused(give(bench, tmp_path / name, tmp_path / "r"), message, tmp_path)
    assert not (tmp_path / "r").exists()


def test_a_file_of_something_else_is_named(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "words.safetensors"
    file.write_text("not weights at all")
    refused(
        give(bench, file, tmp_path / "r"),
        "words.safetensors is damaged or no file of weights",
        tmp_path / "r",
    )


def test_the_zoo_knows_neither_our_data_nor_its_own_absence(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Digits are not RobustBench's; for data that are, the package has to be there."""
    from robustness_bench.benchmark.networks import zoo

    zoo_model = Path("robustbench:Standard")
    refused(give(bench, zoo_model, tmp_path / "r"), "unknown data set of RobustBench 'digits'", tmp_path)
    assert not (tmp_path / "r").exists()
    monkeypatch.setitem(sys.modules, "robustbench", None)  # as on a machine without it
    monkeypatch.setattr(zoo, "_DATASETS", ("digits",))
    said = give(bench, zoo_model, tmp_path)
    refused(said, "RobustBench cannot be imported", tmp_path)
    assert "pip install robustness-bench[robustbench]" in said.err
