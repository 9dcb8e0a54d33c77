"""From a template to a row of the leaderboard, for a listed network and for one that comes as code."""

import dataclasses
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from robustness_bench.attacks import registry
from robustness_bench.benchmark.data import locate
from robustness_bench.benchmark.files import file_hash
from robustness_bench.benchmark.store.cells import Record, find_records, read_record
from robustness_bench.benchmark.store.diagnoses import Diagnosis
from robustness_bench.benchmark.submit.board.entries import Entry, find_entries
from robustness_bench.benchmark.submit.board.standing import protocol_of, standing
from robustness_bench.benchmark.submit.manifest.defense import read_manifest
from tests.benchmark.sandbox.hostile_models import honest
from tests.benchmark.submit.submissions import EXAMPLE
from tests.conftest import Bench

FEWER: dict[str, dict[str, int]] = {
    "aa": {"steps": 10, "square_queries": 100},
    "pgd-40": {"restarts": 1},
    "fwa-40": {"steps": 5},
    "ti-dim": {"steps": 5},
}


def page_of(site: Path, name: str) -> str:
    (page,) = site.glob(f"defenses/{name}-*.html")
    return page.read_text(encoding="utf-8")


def fill(folder: Path, **values: str) -> None:
    """Fill in the template's keys; each value as TOML."""
    path = folder / "submission.toml"
    text = path.read_text(encoding="utf-8")
    for key, value in values.items():
        text, count = re.subn(rf"(?m)^{key} *=.*$", f"{key} = {value}", text)
        assert count == 1, key
    path.write_text(text, encoding="utf-8")


@pytest.fixture
def short_attacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The strict set's names with fewer steps, which is the full protocol then."""
    tables = registry._tables()
    for name, fewer in FEWER.items():
        preset = {**tables[name], "strict": {**tables[name]["strict"], **fewer}}
        monkeypatch.setitem(tables, name, preset)


def _environments(store: Path) -> list[dict[str, Any]]:
    cards = [json.loads(path.read_text()) for path in store.glob("checkpoints/*/*.json")]
    records = [read_record(path) for path in find_records(store)]
    return [*(card["environment"] for card in cards), *(record.environment for record in records)]


@pytest.mark.usefixtures("short_attacks")
def test_from_template_to_a_verified_row(bench: Bench, tmp_path: Path) -> None:
    """The worked submission, filled into a fresh template, checked, measured in full, and on the site."""
    mine, store, site = tmp_path / "mine", tmp_path / "results", tmp_path / "site"
    assert bench("submit", "init", mine).status == 0
    assert bench("submit", "check", mine).status == 1
    for path in EXAMPLE.iterdir():
        shutil.copy(path, mine)
    assert bench("submit", "check", mine).out.endswith("all checks passed\n")
    said = bench("submit", "run", mine, "--out", store)
    assert said.status == 0, said.err
    assert "Standard AT, small: verified, 50 images" in said.out
    assert re.search(r"aa +measured +\d+\.\d % +claimed +53\.5 %", said.out)
    assert "nothing to do" in bench("submit", "run", mine, "--out", store).out
    (protocol,) = (store / "protocols").iterdir()
    made_by = shlex.join(["bench", "submit", "run", str(mine), "--out", str(store)])
    told = {(each["command"], each["protocol"]) for each in _environments(store)}
    assert told == {(made_by, protocol.stem)}
    assert 'weights = "weights.safetensors"' in protocol.read_text()
    assert bench("leaderboard", "build", store, "--out", site).status == 0
    board = next(site.glob("boards/*white*.html")).read_text(encoding="utf-8")
    assert "submitted, verified; AA claimed 53.5, measured" in board
    page = page_of(site, "submitted-standard-at-small")
    assert made_by in page
    assert "rank 1 of 1" in page
    assert "97.22 %, measured here 96.0 %" in page
    archive, other = tmp_path / "results.zip", tmp_path / "other"
    assert bench("export", store, archive).status == 0
    assert bench("import", archive, "--out", other).status == 0
    assert find_entries(other) == find_entries(store)


def trained() -> tuple[torch.nn.Module, float]:
    """The network of hostile_models/honest.py and its accuracy in % on the test images."""
    data = locate("digits", Path()).load()
    images = [torch.from_numpy(np.array(x)).float() / 255 for x in (data.train_x, data.test_x)]
    labels = [torch.from_numpy(np.array(y)) for y in (data.train_y, data.test_y)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = honest.build(classes=10, channels=1, size=8)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(40):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images[0]), labels[0]).backward()
            optimizer.step()
    with torch.no_grad():
        right = model.eval()(images[1]).argmax(1) == labels[1]
    return model, 100 * float(right.float().mean())


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A submission with a network of its own, trained a little on natural images."""
    folder = tmp_path_factory.mktemp("own") / "own"
    shutil.copytree(EXAMPLE, folder)
    shutil.copy(str(honest.__file__), folder / "model.py")
    weights = folder / "weights.safetensors"
    model, natural = trained()
    save_file(model.state_dict(), weights)
    fill(
        folder,
        name='"Own Network"',
        architecture='"own"',
        sha256=f'"{file_hash(weights)}"',
        natural=f"{natural:.2f}",
        aa="0",
        notes='""',
    )
    text = (folder / "submission.toml").read_text(encoding="utf-8")
    kept = [line for line in text.splitlines() if not re.match(r"width|weights_plain", line)]
    (folder / "submission.toml").write_text("\n".join(kept) + "\n", encoding="utf-8")
    return folder


@pytest.mark.usefixtures("short_attacks")
def test_code_is_run_only_if_trusted_and_a_first_look_is_not_ranked(
    bench: Bench, own: Path, tmp_path: Path
) -> None:
    store, site = tmp_path / "results", tmp_path / "site"
    said = bench("submit", "run", own, "--quick", "--out", store)
    assert said.status == 2
    assert "read its model.py, then add --trust-code" in said.err
    assert not store.exists()
    said = bench(
        "submit", "run", own, "--quick", "--trust-code", "--keep-examples", "--workers", 1, "--out", store
    )
    assert said.status == 0, said.err + said.out
    assert "Own Network: partial, 20 images" in said.out
    assert "a first look: without --quick the full protocol runs" in said.out
    assert bench("leaderboard", "build", store, "--out", site).status == 0
    assert "not ranked: submission only partly measured, 20 images" in page_of(site, "submitted-own-network")
    assert "add --trust-code" in bench("verify", store).err
    assert bench("verify", store, "--trust-code").status == 0


def test_another_submission_of_the_same_name_is_refused(bench: Bench, own: Path, tmp_path: Path) -> None:
    store = tmp_path / "results"
    entry = {"format": 1, "network": "", "submission": {}}
    submission = read_manifest(EXAMPLE)
    entry["submission"] = {**vars(submission), "name": "Own Network", "slug": "own-network"}
    (store / "submissions").mkdir(parents=True)
    (store / "submissions" / "own-network.json").write_text(json.dumps(entry))
    said = bench("submit", "run", own, "--quick", "--trust-code", "--out", store)
    assert said.status == 2
    assert "has a submission 'Own Network' with other weights or code" in said.err
    assert not find_records(store)


def test_a_check_that_fails_ends_it_before_anything_is_run(bench: Bench, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(EXAMPLE, bad)
    with (bad / "weights.safetensors").open("r+b") as file:
        file.seek(-40, 2)
        file.write(b"\x00" * 8)
    said = bench("submit", "run", bad, "--out", tmp_path / "results")
    assert said.status == 1
    assert "FAILED   hash" in said.out
    assert not (tmp_path / "results").exists()


def a_record(attack: str, n: int, entry: Entry, **change: object) -> Record:
    """As the full protocol would leave it, but of made-up outcomes."""
    from robustness_bench.attacks.registry import attack_presets

    preset = attack_presets("strict")[attack]
    spec = {
        "dataset": "digits",
        "data": "d",
        "norm": "linf",
        "eps": 0.18,
        "threat": "white",
        "defense": entry.defense,
        "attack": attack,
        "kind_of_attack": preset.kind,
        "parameters": preset.identity("linf", float(str(change.get("eps", 0.18)))),
        "n_examples": n,
        "parents": {"model": "m"},
        **change,
    }
    names = ("sample", "label", "clean_prediction", "adversarial_prediction", "linf", "l2", "l1")
    rows = {name: np.zeros(n, np.int64) for name in (*names, "forwards", "backwards")}
    return Record(
        id=attack,
        family=attack,
        model_family="f",
        seed=0,
        spec=spec,
        status="ok",
        error="",
        environment={},
        seconds=0.0,
        rows=rows,
        diagnosis=Diagnosis(id="d", seed=0, spec={**spec, "probe": {"images": n}}, flags=()),
    )


FULL = ("none", "pgd-40", "aa", "fwa-40", "ti-dim")


def test_only_the_whole_protocol_of_the_claimed_threat_model_is_verified() -> None:
    entry = Entry(submission=read_manifest(EXAMPLE), network="")
    assert protocol_of(entry).settings[0].attacks["linf"] == FULL
    whole = [a_record(attack, 50, entry) for attack in FULL]
    assert standing(entry, whole).status == "verified"
    assert standing(entry, whole).measured["worst-case"] == 100.0
    without = standing(entry, whole[:-1])
    assert (without.status, without.missing) == ("partial", ("ti-dim",))
    for change in ({"eps": 0.1}, {"norm": "l2"}, {"threat": "black"}, {"defense": "standard"}):
        others = [a_record(attack, 50, entry, **change) for attack in FULL]
        assert standing(entry, others).status == "partial"
    assert standing(entry, [a_record(attack, 20, entry) for attack in FULL]).status == "partial"
    unknown = [dataclasses.replace(record, diagnosis=None) for record in whole]
    assert standing(entry, unknown).status == "partial"
    assert standing(entry, unknown).missing == ("a diagnosis",)
    spec = {**whole[0].spec, "probe": {"images": 50}}
    told = Diagnosis(id="d", seed=0, spec=spec, flags=("batch-dependent",))
    mixing = [dataclasses.replace(record, diagnosis=told) for record in whole]
    assert standing(entry, mixing).missing == ("outputs that do not depend on the batch",)
    weak = a_record("pgd-40", 50, entry)
    weak.spec["parameters"] = {**weak.spec["parameters"], "steps": 1}
    assert standing(entry, [weak if r.spec["attack"] == "pgd-40" else r for r in whole]).missing == (
        "pgd-40",
    )


def test_a_model_that_fails_under_attack_is_an_error_and_no_number(
    bench: Bench, own: Path, tmp_path: Path
) -> None:
    fragile, store = tmp_path / "fragile", tmp_path / "results"
    shutil.copytree(own, fragile)
    with (fragile / "model.py").open("a", encoding="utf-8") as file:
        file.write(
            "\n\n_inner = build\n\n\ndef build(**shape):\n    model = _inner(**shape)\n"
            "    def fail(module, inputs, output):\n        if len(inputs[0]) == 20:\n"
            "            raise RuntimeError('not twenty')\n"
            "    model.register_forward_hook(fail)\n    return model\n"
        )
    said = bench("submit", "run", fragile, "--quick", "--trust-code", "--workers", 1, "--out", store)
    assert said.status == 1
    assert "not twenty" in said.err
    records = [read_record(path) for path in find_records(store)]
    assert all(record.status == "error" for record in records)
