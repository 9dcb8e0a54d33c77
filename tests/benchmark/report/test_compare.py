"""Two defenses held against each other: numbers by hand, what is missing, and the verb on a faked store."""

import csv
import dataclasses
import io
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from robustness_bench.benchmark.cli.compare import compare as verb
from robustness_bench.benchmark.cli.shared.options import Request
from robustness_bench.benchmark.data import locate
from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.plan.tasks import Task, make_plan
from robustness_bench.benchmark.report.lines.compare import Comparison, Pair, Where, compare, pair_of, points
from robustness_bench.benchmark.report.lines.trained import Epochs, epochs_of, trainings
from robustness_bench.benchmark.report.rendering.formats import to_text
from robustness_bench.benchmark.report.tables.comparison import cautions, to_csv, to_dict, to_table
from robustness_bench.benchmark.statistics import differences, resample, wilson
from robustness_bench.benchmark.store.cells import Record, write_record
from tests.benchmark.report.test_report import record

WHERE = Where(dataset="digits", norm="linf", eps=0.5, threat="white")
IMAGES = 40
SURVIVORS = {"none": 38, "pgd-40": 24, "aa": 20, "ddn": 22, "fwa-40": 4}


ALIKE = {f"{name}-{norm}-{seed}": Epochs(0, 12)
         for name in ("namid", "standard") for norm in ("linf", "l2") for seed in range(9)}  # fmt: skip


def pair(
    records: list[Record], *seeds: int, where: Where = WHERE, epochs: dict[str, Epochs] | None = None
) -> Pair:
    return pair_of(where, "namid", "standard", records, seeds, ALIKE if epochs is None else epochs)


def both(attack: str, *survivors: tuple[int, int], **changes: Any) -> list[Record]:
    """NAMID's and Standard AT's of ten images, a pair a seed."""
    return [
        record(defense, attack, seed, count, **changes)
        for seed, counts in enumerate(survivors)
        for defense, count in zip(("namid", "standard"), counts, strict=True)
    ]


def first_of(count: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.arange(10) < count


def test_numbers_by_hand() -> None:
    found = compare(pair(both("aa", (4, 7), (6, 7))), "aa")
    assert found.first.per_seed == {0: 40.0, 1: 60.0}
    assert found.first.summary == pytest.approx((50.0, 200**0.5, 2))
    assert found.first.interval == pytest.approx([100 * end for end in wilson(5, 10)])
    assert found.second.summary[:2] == (70.0, 0.0)
    ours, theirs = np.stack([first_of(4), first_of(6)]), np.stack([first_of(7)] * 2)
    one, other = resample([ours, theirs])
    (expected,) = differences(one, [other], matched=[True])
    assert found.difference == pytest.approx([100 * value for value in expected])
    assert found.tests == {0: (0, 3, 0.25), 1: (0, 1, 1.0)}
    assert (found.images, found.matched, found.union) == (10, True, ())


def test_images_are_paired_one_by_one() -> None:
    """Images 0-5 and 4-9: as many, yet eight of them differ."""
    records = [record("namid", "aa", 0, 6), record("standard", "aa", 0, 6, first=4)]
    found = compare(pair(records), "aa")
    assert found.difference.mean == 0
    assert found.tests == {0: (4, 4, 1.0)}
    shifted = dataclasses.replace(records[1], rows=records[1].rows | {"sample": np.arange(10) + 1})
    with pytest.raises(ValueError, match="same images in the same order"):
        compare(pair([records[0], shifted]), "aa")


def test_the_worst_case_is_a_union_of_what_both_have_faced() -> None:
    records = [
        record("namid", "pgd-40", 0, 6),
        record("namid", "aa", 0, 6, first=4),  # 4 and 5 withstand both
        record("namid", "ti-dim", 0, 0),  # Standard AT has not faced it
        record("standard", "pgd-40", 0, 7),
        record("standard", "aa", 0, 5),
        *both("fwa-40", (0, 0)),  # a ball of its own
        *both("none", (9, 9)),
    ]
    found = compare(pair(records), "worst-case")
    assert found.union == ("pgd-40", "aa")
    assert (found.first.per_seed, found.second.per_seed) == ({0: 20.0}, {0: 50.0})
    assert pair(records).common() == ["none", "pgd-40", "aa", "fwa-40", "worst-case"]


def test_minimum_norm_attacks_count_within_eps() -> None:
    records = both("ddn", (0, 0), norm="l2")
    found = compare(pair(records, where=dataclasses.replace(WHERE, norm="l2", eps=0.25)), "worst-case")
    assert found.first.per_seed == {0: 50.0}


def test_only_the_same_threat_model_and_cells_that_worked() -> None:
    wrong = [
        *both("aa", (9, 9), threat="black"),
        *both("aa", (9, 9), eps=0.7),
        *both("aa", (9, 9), norm="l2"),
        *both("aa", (9, 9), error="Traceback"),
    ]
    assert pair(wrong).common() == []
    assert pair(wrong).lacking("aa", ()) == ["namid", "standard"]
    found = compare(pair([*wrong, *both("aa", (4, 7))]), "aa")
    assert (found.first.per_seed, found.second.per_seed) == ({0: 40.0}, {0: 70.0})


def test_seeds_that_lack() -> None:
    records = [*both("aa", (4, 7), (6, 7)), record("namid", "aa", 2, 5), record("namid", "pgd-40", 1, 5)]
    assert pair(records).lacking("aa", ()) == []
    assert pair(records, 0, 1).lacking("aa", (0, 1)) == []
    assert pair(records, 0, 1, 2).lacking("aa", range(3)) == ["standard"]
    assert pair(records).lacking("pgd-40", ()) == ["standard"]
    assert pair(records, 0).lacking("pgd-40", (0,)) == ["namid", "standard"]
    assert list(compare(pair(records, 0), "aa").first.per_seed) == [0]


def test_different_seeds_are_drawn_apart() -> None:
    records = [*both("aa", (4, 7), (6, 7)), record("namid", "aa", 2, 5)]
    found = compare(pair(records), "aa")
    assert not found.matched
    assert list(found.tests) == [0, 1]
    ours = np.stack([first_of(4), first_of(6), first_of(5)])
    one, other = resample([ours, np.stack([first_of(7)] * 2)])
    (expected,) = differences(one, [other], matched=[False])
    assert found.difference == pytest.approx([100 * value for value in expected])
    assert any("drawn apart" in note for note in cautions([found]))


@pytest.mark.parametrize(
    ("survivors", "says"),
    [
        ((10, 0), "namid is better than standard: difference 100.0 points, 95 % interval [100.0, 100.0]"),
        ((0, 10), "namid is worse than standard: difference −100.0 points, 95 % interval [−100.0, −100.0]"),
        ((5, 5), "namid is not shown to be better or worse than standard: difference 0.0 points, "
         "95 % interval [0.0, 0.0]"),
    ],
)  # fmt: skip
def test_what_may_be_claimed(survivors: tuple[int, int], says: str) -> None:
    assert compare(pair(both("aa", survivors)), "aa").claim == says


def test_an_interval_that_touches_zero_claims_nothing() -> None:
    found = compare(pair(both("aa", (7, 5))), "aa")
    assert found.difference.low == 0
    assert "is not shown to be better or worse" in found.claim


@pytest.mark.parametrize(
    ("value", "text"), [(-5.66, "−5.7"), (0.0, "0.0"), (0.04, "0.04"), (-0.004, "−0.004"), (100.0, "100.0")]
)
def test_points_as_they_are_written(value: float, text: str) -> None:
    assert points(value) == text


def test_many_comparisons_have_to_hold_together() -> None:
    """Of ten images four more: shown at 95 %, no longer among a hundred comparisons."""
    one, many = (compare(pair(both("aa", (8, 4))), "aa", among=among) for among in (1, 100))
    assert one.difference == many.difference == one.wide
    assert many.wide.low == 0 < many.difference.low
    sure = compare(pair(both("pgd-40", (10, 0))), "pgd-40", among=2)
    (said,) = (note for note in cautions([many, sure]) if "comparisons" in note)
    assert said.startswith("2 comparisons: at 95 % each, about one in twenty misleads by chance.")
    assert said.endswith("a difference is shown in pgd-40 L∞ white box [100.0, 100.0].")
    assert cautions([many, many])[-1].endswith("is shown in none of them.")
    assert not any("comparisons" in note for note in cautions([one]))


def test_cautions_name_what_the_seeds_cannot_tell() -> None:
    alone = cautions([compare(pair(both("aa", (4, 7))), "aa")])
    assert "A single seed (namid, standard) does not show" in alone[1]
    assert not any("Two to four" in note for note in alone)
    several = cautions([compare(pair(both("aa", (4, 7), (5, 7))), "aa")])
    assert any("Two to four seeds" in note for note in several)
    assert not any("A single seed" in note for note in several)
    enough = cautions([compare(pair(both("aa", *[(4, 7)] * 5)), "aa")])
    assert len(enough) == 1


@pytest.fixture
def found() -> Comparison:
    return compare(pair([*both("aa", (4, 7), (6, 7)), record("standard", "aa", 2, 5)]), "aa", among=9)


def test_the_text_is_a_table(found: Comparison) -> None:
    text = to_text(to_table(found))
    assert text.startswith(
        "digits, L∞ (ε = 0.5), white box, aa\nAccuracy in % and difference in points on 10 "
    )
    lines = [line.split() for line in text.splitlines()[5:]]
    assert lines[0][:6] == ["namid", "50.0", "±", "14.1", "[23.7,", "76.3]"]
    assert lines[0][6:] == ["40.0", "60.0", "–"]
    assert lines[1][-3:] == ["70.0", "70.0", "50.0"]
    assert lines[2][:2] == ["difference", "−13.3"]
    assert lines[2][-3:] == ["−30.0", "−10.0", "–"]
    assert lines[3] == ["only", "namid", "0", "0", "–"]
    assert lines[4] == ["only", "standard", "3", "1", "–"]
    assert lines[5] == ["McNemar", "p", "0.250", "1.000", "–"]


def test_titles_say_what_was_faced() -> None:
    natural = compare(pair(both("none", (10, 10))), "none")
    assert to_table(natural).title.endswith("white box, no attack")
    worst = compare(pair([*both("aa", (4, 7)), *both("pgd-40", (5, 8))]), "worst-case")
    assert to_table(worst).title.endswith("white box, the worst of pgd-40, aa")


def test_a_small_p_is_written_as_such(found: Comparison) -> None:
    sure = dataclasses.replace(found, tests={0: found.tests[0]._replace(p=0.0004)})
    assert "<0.001" in to_text(to_table(sure))


def test_csv_and_json_say_the_same(found: Comparison) -> None:
    (line,) = csv.DictReader(io.StringIO(to_csv([found])))
    told = json.loads(json.dumps(to_dict(found)))
    assert line["first"] == told["first"]["defense"] == "namid"
    assert line["second"] == told["second"]["defense"] == "standard"
    assert float(line["first_mean"]) == pytest.approx(told["first"]["mean"], abs=1e-4)
    assert float(line["second_high"]) == pytest.approx(told["second"]["high"], abs=1e-4)
    assert float(line["difference"]) == pytest.approx(told["difference"]["mean"], abs=1e-4)
    assert float(line["low"]) == pytest.approx(told["difference"]["low"], abs=1e-4)
    assert float(line["simultaneous_high"]) == pytest.approx(told["simultaneous"]["high"], abs=1e-4)
    assert line["second_per_seed"] == "0:70.0000 1:70.0000 2:50.0000"
    assert line["mcnemar"] == "0:0/3/0.25 1:0/1/1"
    assert told["mcnemar"]["0"] == {"only_first": 0, "only_second": 3, "p": 0.25}
    assert told["matched_seeds"] is False
    assert line["claim"] == told["claim"] == found.claim


def fill(out: Path, *, better: int = 0, **changes: Any) -> None:
    """A store of faked cells; NAMID withstands ``better`` images more, and a seed one more than the last."""
    given: dict[str, Any] = {"defense": ["namid,standard"], "norm": ["linf"], "threat": ["white"], "seeds": 2}
    request = Request(out=out, width=2, n_examples=IMAGES, **given | changes)
    for task in make_plan(request.protocol(), {"digits": locate("digits", Path("data"))}):
        if task.kind == "evaluate":
            more = better if task.spec["defense"] == "namid" else 0
            kept = np.arange(IMAGES) < SURVIVORS[task.spec["attack"]] + task.seed + more
            clean = kept if task.spec["attack"] == "none" else np.ones(IMAGES, bool)
            rows = {name: np.zeros(IMAGES) for name in ("linf", "l2", "l1", "forwards", "backwards")}
            facts = {
                "sample": np.arange(IMAGES),
                "label": np.ones(IMAGES, int),
                "clean_prediction": clean.astype(int),
                "adversarial_prediction": kept.astype(int),
            }
            write_record(out / task.path, task, facts | rows, environment={}, seconds=0.0)


def ask(out: Path, *words: object) -> Result:
    """``bench compare`` on the settings of ``fill``."""
    app = typer.Typer()
    app.command()(verb)
    shared = ("--dataset", "digits", "--width", 2, "--n-examples", IMAGES, "--out", out)
    return CliRunner().invoke(app, [str(word) for word in (*words, *shared)])


def refusal(result: Result) -> str:
    assert isinstance(result.exception, BenchError)
    assert "\n" not in str(result.exception)
    return str(result.exception)


def test_the_verb_compares_what_both_have_faced(tmp_path: Path) -> None:
    fill(tmp_path, attacks=["pgd-40,aa"], better=9)
    fill(tmp_path, attacks=["fwa-40"], defense=["namid"])
    before = sorted(tmp_path.rglob("*"))
    result = ask(tmp_path, "namid", "standard")
    assert result.exit_code == 0, result.exception
    heads = [line for line in result.stdout.splitlines() if line.startswith("digits, ")]
    assert [head.rpartition("box, ")[2] for head in heads] == [
        "no attack",
        "pgd-40",
        "aa",
        "the worst of pgd-40, aa",
    ]
    assert (
        "namid is better than standard: difference 22.5 points, 95 % interval [10.0, 35.0].\n"
        in result.stdout
    )
    assert "4 comparisons:" in result.stdout
    told = json.loads(ask(tmp_path, "namid", "standard", "--json").stdout)["comparisons"]
    assert all(each["simultaneous"]["low"] < each["difference"]["low"] for each in told[1:])
    assert sorted(tmp_path.rglob("*")) == before


def test_the_verb_takes_attacks_norms_and_threats(tmp_path: Path) -> None:
    fill(tmp_path, attacks=["pgd-40,aa,ddn"], norm=["linf,l2"], threat=["white,black"], better=3)

    def said(*words: object) -> list[tuple[str, str, str]]:
        result = ask(tmp_path, "standard", "namid", "--json", *words)
        assert result.exit_code == 0, result.exception
        told = json.loads(result.stdout)["comparisons"]
        assert all(each["first"]["defense"] == "standard" for each in told)
        assert all(each["difference"]["mean"] < 0 for each in told)
        return [(each["norm"], each["threat"], each["attack"]) for each in told]

    assert said("--attacks", "worst-case,aa", "--threat", "black", "--norm", "l2") == [
        ("l2", "black", "worst-case"),
        ("l2", "black", "aa"),
    ]
    assert said("--attack", "ddn", "--threat", "white") == [("l2", "white", "ddn")]
    assert said("--attacks", "none,aa", "--norm", "linf") == [
        ("linf", "white", "none"),
        ("linf", "white", "aa"),
        ("linf", "black", "aa"),
    ]
    assert len(said()) == 4 + 3 + 5 + 4


def test_the_verb_writes_a_file_where_told(tmp_path: Path) -> None:
    fill(tmp_path, attacks=["aa"], better=9)
    file = tmp_path / "new" / "compared.csv"
    ask(tmp_path, "namid", "standard", "--attacks", "aa", "--csv", file)
    (line,) = csv.DictReader(file.read_text().splitlines())
    assert (line["attack"], line["difference"], line["first_per_seed"]) == (
        "aa",
        "22.5000",
        "0:72.5000 1:75.0000",
    )
    first = file.read_bytes()
    ask(tmp_path, "namid", "standard", "--attacks", "aa", "--csv", file)
    assert file.read_bytes() == first


def test_the_verb_keeps_to_the_seeds_asked_for(tmp_path: Path) -> None:
    fill(tmp_path, attacks=["aa"], seeds=3)
    assert "seed 2" in ask(tmp_path, "namid", "standard").stdout
    assert "seed 2" not in ask(tmp_path, "namid", "standard", "--seeds", 2).stdout
    said = refusal(ask(tmp_path, "namid", "standard", "--seeds", 4))
    assert "namid and standard (digits linf white)" in said
    assert "--seeds 4" in said


def test_what_lacks_is_one_command_that_fills_it(tmp_path: Path) -> None:
    fill(tmp_path, attacks=["pgd-40"])
    fill(tmp_path, attacks=["aa"], defense=["standard"])
    result = ask(tmp_path, "namid", "standard", "--attacks", "pgd-40,aa", "--seeds", 2)
    assert "pgd-40" in result.stdout  # what is there is shown
    said = refusal(result)
    assert "namid × aa (digits linf white)" in said
    assert "× pgd-40" not in said
    words = shlex.split(said.partition(": run ")[2])
    assert words[:2] == ["bench", "run"]
    given = dict(zip(words[2::2], words[3::2], strict=True))
    assert given == {
        "--defense": "namid",
        "--dataset": "digits",
        "--norm": "linf",
        "--threat": "white",
        "--seeds": "2",
        "--attacks": "aa",
        "--n-examples": str(IMAGES),
        "--width": "2",
        "--out": str(tmp_path),
    }
    fill(Path(given["--out"]), attacks=[given["--attacks"]], defense=[given["--defense"]])
    assert ask(tmp_path, "namid", "standard", "--attacks", "pgd-40,aa", "--seeds", 2).exit_code == 0


def test_an_empty_store_is_one_line(tmp_path: Path) -> None:
    said = refusal(ask(tmp_path, "namid", "standard"))
    assert said.startswith("no results under these settings for namid and standard (digits linf white); ")
    assert "bench run --defense namid,standard --dataset digits --norm linf,l2 --threat white,black " in said
    assert "--attacks" not in said
    assert "worst-case" in refusal(ask(tmp_path, "namid", "standard", "--attacks", "worst-case"))
    assert "--attacks" not in refusal(ask(tmp_path, "namid", "standard", "--attacks", "worst-case"))


def test_other_settings_do_not_count(tmp_path: Path) -> None:
    fill(tmp_path, attacks=["aa"])
    assert "no results under these settings" in refusal(ask(tmp_path, "namid", "standard", "--epochs", 2))


def test_a_norm_that_was_named_is_missed(tmp_path: Path) -> None:
    fill(tmp_path, attacks=["aa"])
    assert ask(tmp_path, "namid", "standard").exit_code == 0
    said = refusal(ask(tmp_path, "namid", "standard", "--norm", "linf,l2", "--threat", "white"))
    assert "(digits l2 white)" in said
    assert "linf" not in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("namid", "namid"), "namid cannot be compared with itself"),
        (("namid", "standart"), "unknown defense 'standart'; did you mean standard"),
        (("namidd", "standard"), "unknown defense 'namidd'; did you mean namid"),
        (
            ("namid", "standard", "--attacks", "wurst-case"),
            "unknown attack 'wurst-case'; did you mean worst-case",
        ),
        (("namid", "standard", "--attacks", "ti-dim", "--norm", "l2"), "ti-dim works in linf, not in l2"),
        (("namid", "standard", "--defense", "trades"), "without --defense"),
        (("namid", "standard", "--weights", "a.safetensors"), "--weights is one model"),
    ],
)
def test_wrong_input_is_one_line(words: tuple[str, ...], says: str, tmp_path: Path) -> None:
    assert says in refusal(ask(tmp_path, *words))


def write_card(out: Path, task: Task, *terms: str) -> None:
    """A training's card as the trainer writes it, an epoch of its curve per term."""
    card = {"format": 1, "id": task.id, "seed": task.seed, "spec": task.spec, "sha256": "0" * 64}
    history = [{term: 1.0, "lr": 0.1, "seconds": 1.0} for term in terms]
    path = (out / task.path).with_suffix(".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(card | {"history": history, "epoch": len(history)}))


def fill_cards(out: Path, warm: int = 2, total: int = 12) -> list[Task]:
    """Cards of the models that ``fill`` names: NAMID's with a warm-up, Standard AT's without."""
    request = Request(
        out=out, width=2, n_examples=IMAGES, defense=["namid,standard"], norm=["linf"], threat=["white"],
        seeds=2, attacks=["aa"],
    )  # fmt: skip
    cells = make_plan(request.protocol(), {"digits": locate("digits", Path("data"))})
    models = {
        (task.spec["defense"], task.seed): task.parents["model"] for task in cells if task.kind == "evaluate"
    }
    for (defense, _), model in models.items():
        natural = warm if defense == "namid" else 0
        write_card(out, model, *["warm_up"] * natural, *["ce"] * (total - natural))
    return [models["namid", 1], models["standard", 1]]


def test_ten_against_twelve_adversarial_epochs_are_said(tmp_path: Path) -> None:
    fill(tmp_path, attacks=["aa"], better=9)
    fill_cards(tmp_path)
    file = tmp_path / "compared.csv"
    said = ask(tmp_path, "namid", "standard", "--csv", file).stdout
    told = "namid 2 natural and 10 adversarial epochs; standard 12 adversarial epochs"
    assert f"Trained: {told}." in " ".join(said.split())
    assert f"95 % interval [10.0, 36.2]; not trained alike: {told}.\n" in said
    (line,) = [each for each in csv.DictReader(file.read_text().splitlines()) if each["attack"] == "aa"]
    assert line["claim"].endswith(f"; not trained alike: {told}")
    assert (line["first_natural_epochs"], line["first_adversarial_epochs"]) == ("0:2 1:2", "0:10 1:10")
    assert (line["second_natural_epochs"], line["second_adversarial_epochs"]) == ("0:0 1:0", "0:12 1:12")
    (asked,) = json.loads(ask(tmp_path, "namid", "standard", "--attacks", "aa", "--json").stdout)[
        "comparisons"
    ]
    assert asked["trained_alike"] is False
    assert asked["first"]["epochs"] == {str(seed): {"natural": 2, "adversarial": 10} for seed in range(2)}


def test_a_warm_up_on_top_still_differs_in_natural_epochs(tmp_path: Path) -> None:
    fill(tmp_path, attacks=["aa"])
    fill_cards(tmp_path, warm=0)
    assert "not trained alike" not in ask(tmp_path, "namid", "standard").stdout
    for model in fill_cards(tmp_path, warm=0)[:1]:  # NAMID's seed 1 alone: 2 on top
        write_card(tmp_path, model, *["warm_up"] * 2, *["ce"] * 12)
    said = " ".join(ask(tmp_path, "namid", "standard").stdout.split())
    assert (
        "not trained alike: namid 12 adversarial epochs (seed 0), 2 natural and 12 adversarial epochs "
        "(seed 1); standard 12 adversarial epochs." in said
    )


def test_missing_cards_are_unknown_and_claim_nothing(tmp_path: Path) -> None:
    fill(tmp_path, attacks=["aa"])
    models = fill_cards(tmp_path)
    (tmp_path / models[1].path).with_suffix(".json").unlink()
    said = " ".join(ask(tmp_path, "namid", "standard", "--seeds", "2").stdout.split())
    assert "standard 12 adversarial epochs (seed 0), unknown (seed 1)" in said
    assert "Epochs are unknown where no card of the training is in the store" in said
    (told,) = json.loads(ask(tmp_path, "namid", "standard", "--attacks", "aa", "--json").stdout)[
        "comparisons"
    ]
    assert told["second"]["epochs"]["1"] is None
    assert told["trained_alike"] is False  # as far as is known
    for path in tmp_path.rglob("checkpoints/*/*.json"):
        path.unlink()
    bare = ask(tmp_path, "namid", "standard").stdout
    assert "Trained: namid unknown; standard unknown." in " ".join(bare.split())
    assert "not trained alike" not in bare


def test_epochs_of_the_committed_run() -> None:
    """NAMID's 2 natural epochs come on top; natural training has no adversarial epoch."""
    store = Path(__file__).parents[3] / "results" / "digits"
    found = trainings(store)
    for name, epochs in {"namid": (2, 12), "standard": (0, 12), "undefended": (12, 0)}.items():
        cards = list((store / "checkpoints" / "digits").glob(f"{name}-resnet-18-*.json"))
        assert cards
        assert {found[card.stem.rpartition("-")[2]] for card in cards} == {epochs}
    assert epochs_of({"spec": {"weights": "f"}}) is None
    assert [str(Epochs(*each)) for each in ((1, 0), (0, 12), (2, 10))] == [
        "1 natural epoch",
        "12 adversarial epochs",
        "2 natural and 10 adversarial epochs",
    ]
