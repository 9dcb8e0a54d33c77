"""What `bench submit check` says of an attack: a line with the remedy for all that is wrong."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from robustness_bench.benchmark.submit.checks import trial
from robustness_bench.benchmark.submit.checks.trial import Trial, subject_for
from robustness_bench.benchmark.submit.intake.reading import RefusedError, unpacked
from robustness_bench.benchmark.submit.manifest.attack import is_attack, read_attack_manifest
from robustness_bench.benchmark.submit.manifest.keys import ManifestError
from tests.benchmark.sandbox.forked import forking
from tests.benchmark.sandbox.hostile import needs_walls
from tests.benchmark.sandbox.hostile_attacks.sent import sent_in
from tests.benchmark.submit.submissions import EXAMPLE, checked, of, tree_hash, write
from tests.conftest import Bench

EMPTY = {
    "name": "Name of the attack: up to 80 characters",
    "authors": "One name in quotes for each",
    "licence": "Licence of attack.py, as an SPDX name",
    "contact": "An e-mail address or a link",
    "description": "How it works, in a few sentences",
    "datasets": r'\["any"\], or some of `bench list datasets`',
    "norms": r"The norms that perturb\(\) supports",
    "randomised": "true if another seed gives different images",
    "forward_passes": "The most passes per image",
    "backward_passes": "The same backward",
}
WRONG = {
    "kind": ('"atack"', "kind is an unknown kind 'atack'; did you mean attack"),
    "name": ('"<b>x</b>"', "name has '<' in it: <, > and & are rejected"),
    "authors": (r'["a\u202Eb"]', r"authors has .* character U\+202E"),
    "paper": ('"javascript:alert(1)"', "paper .* is not an http or https link"),
    "contact": ('"me"', "contact 'me' is neither"),
    "licence": ('"see the file"', "licence 'see the file' is no SPDX name"),
    "description": (r'"\u0007"', r"description has .* character U\+0007"),
    "datasets": ('["digit"]', "attack.datasets is an unknown data set 'digit'; did you mean digits"),
    "norms": ('"linf"', "attack.norms must be a list, got 'linf'"),
    "randomised": ('"no"', "attack.randomised must be true or false, got 'no'"),
    "forward_passes": ("0", "attack.forward_passes must be at least 1, got 0"),
    "backward_passes": ("-1", "attack.backward_passes must be at least 0, got -1"),
}


def test_the_template_is_refused_until_it_is_filled_in(bench: Bench, tmp_path: Path) -> None:
    said = bench("submit", "init", tmp_path / "mine", "--attack")
    assert said.status == 0
    assert "replace the steps of attack.py with yours" in said.out
    assert is_attack(tmp_path / "mine")
    said = bench("submit", "check", tmp_path / "mine", "--trust-code")
    assert said.status == 1
    for key in ("name", "authors", "licence", "contact", "description"):
        assert re.search(rf"FAILED +schema +{key} is empty: {EMPTY[key]}", said.out)
    assert "paper and code are both empty" in said.out


def test_own_and_attack_are_two_things(bench: Bench, tmp_path: Path) -> None:
    said = bench("submit", "init", tmp_path / "mine", "--attack", "--own")
    assert said.status == 2
    assert "give one of them" in said.err
    assert not (tmp_path / "mine").exists()


def test_the_manifest_is_read_as_it_is_written(tmp_path: Path) -> None:
    found = read_attack_manifest(sent_in(tmp_path / "mine", datasets='["digits", "digits", "mnist"]'))
    assert (found.slug, found.name, found.authors) == ("my-pgd", "My PGD", ("Ada Lovelace",))
    assert found.datasets == ("digits", "mnist")
    assert found.norms == ("linf", "l2")
    assert found.allowance == (21, 20)
    assert found.link == "https://example.org/paper"
    assert (found.is_for("digits"), found.is_for("cifar10")) == (True, False)
    assert read_attack_manifest(sent_in(tmp_path / "other")).is_for("cifar10")


@pytest.mark.parametrize("key", EMPTY)
def test_what_is_missing_is_named(tmp_path: Path, key: str) -> None:
    folder = sent_in(tmp_path / "mine", **{key: ""})
    with pytest.raises(ManifestError, match=rf"{key} is missing: {EMPTY[key]}"):
        read_attack_manifest(folder)


@pytest.mark.parametrize("key", WRONG)
def test_what_is_wrong_is_named(tmp_path: Path, key: str) -> None:
    value, says = WRONG[key]
    folder = sent_in(tmp_path / "mine", **{key: value})
    assert not any(each.status == "ok" for each in checked(folder))
    assert re.search(says, "\n".join(each.text for each in checked(folder) if each.name == "schema"))


@pytest.mark.parametrize("name", ["PGD-40", "aa"])
def test_the_name_of_a_listed_attack_is_taken(tmp_path: Path, name: str) -> None:
    folder = sent_in(tmp_path / "mine", name=f'"{name}"')
    with pytest.raises(ManifestError, match=f"name {name} is that of a listed attack: choose another"):
        read_attack_manifest(folder)


def test_keys_of_a_defense_are_unknown_here_and_the_other_way_round(tmp_path: Path) -> None:
    folder = sent_in(tmp_path / "mine")
    manifest = folder / "submission.toml"
    manifest.write_text(manifest.read_text() + "\n[threat]\nnorm = 'linf'\n")
    assert "unknown key 'threat'" in of(checked(folder), "schema").text
    defense = tmp_path / "defense"
    sent_in(defense)
    write(defense, "kind", "")
    said = [each.text for each in checked(defense)]
    assert any("unknown key 'attack" in text for text in said)
    assert any("model.architecture is missing" in text for text in said)


def test_a_defense_may_say_that_it_is_one(tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(EXAMPLE, tmp_path / "sent"))
    manifest = folder / "submission.toml"
    manifest.write_text('kind = "defense"\n' + manifest.read_text())
    assert of(checked(folder), "schema").status == "ok"
    (folder / "attack.py").write_text("")
    assert "attack.py is for an attack: delete it" in of(checked(folder), "files").text


def test_files_and_licence(tmp_path: Path) -> None:
    folder = sent_in(tmp_path / "mine", licence='"proprietary"')
    assert "lets nobody use the code" in of(checked(folder), "licence").text
    (folder / "model.py").write_text("")
    found = checked(folder, trust_code=True)
    assert of(found, "files").text == "an attack has no model.py: delete it, attack.py is all"
    assert of(found, "all others").status == "skipped"
    (folder / "model.py").unlink()
    (folder / "attack.py").unlink()
    assert "there is no attack.py with perturb(): put it there" in of(checked(folder), "files").text
    (folder / "helper.py").write_text("")
    with pytest.raises(RefusedError, match=r"'helper\.py' does not belong"), unpacked(folder):
        pass


def test_code_is_not_run_unless_it_is_trusted(bench: Bench, tmp_path: Path) -> None:
    folder = sent_in(tmp_path / "mine", "raise ValueError")
    before = tree_hash(folder)
    said = bench("submit", "check", folder)
    assert said.status == 1
    assert "attack.py is code: read it, then add --trust-code to run it" in said.out
    assert tree_hash(folder) == before


@needs_walls
def test_every_check_passes_on_the_template(bench: Bench, tmp_path: Path) -> None:
    said = bench("submit", "check", sent_in(tmp_path / "mine"), "--trust-code", "--json")
    assert said.status == 0, said.out
    found = json.loads(said.out)
    assert found["complete"]
    texts = {each["name"]: each["text"] for each in found["checks"]}
    assert list(texts) == [
        *("schema", "files", "licence", "shape"),
        *("finite", "box", "budget", "passes", "determinism", "effect", "speed"),
    ]
    assert texts["budget"] == "linf 0.18 of 0.18, l2 0.75 of 0.75"
    assert "linf 21 forward and 20 backward" in texts["passes"]
    assert re.search(r"linf (2\d|3\d) of 32, l2 \d+ of 32", texts["effect"])


_KEEPS = "x = (x + 0.9 * eps * (2 * torch.rand_like(x) - 1)).clamp(0, 1)"
FAILING = {
    "raises": ("raise ValueError('because')", "running", r"ValueError: because \(attack\.py, line 7\); fix"),
    "shape": ("return x[:, :, 1:]", "shape", r"returned shape .*; fix attack\.py: return float32 images"),
    "nan": ("x = x * float('nan')", "finite", "NaN or infinite pixels: fix"),
    "above the box": ("x = x + eps", "box", r"linf: pixels are in \[0\.18, 1\.18\]: end with clamp\(0, 1\)"),
    "box": ("x = x - eps", "box", r"linf: pixels are in \[-0\.18, .*\]: end with clamp\(0, 1\)"),
    "budget": (
        "x = (x + 2 * eps).clamp(0, 1)",
        "budget",
        "linf: distance 0.36.*project onto the ball of linf",
    ),
    "passes": ("[model(x) for _ in range(22)]", "passes", "more than 21 forward passes.*write larger"),
    "time": ("time.sleep(60)", "limits", r"no answer within 1 s.*make it faster"),
    "chance": (
        "x = x + 1e-3 * (time.monotonic_ns() % 1009) / 1009; x = x.clamp(0, 1)",
        "determinism",
        "the same seed gives different images: take all randomness from seed",
    ),
}


@needs_walls
@pytest.mark.parametrize("name", FAILING)
def test_what_it_does_wrong_is_a_line(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "time":
        monkeypatch.setattr(trial, "LIMITS", replace(trial.LIMITS, seconds_per_call=1.0))
    body, check, says = FAILING[name]
    with forking():
        found = of(checked(sent_in(tmp_path / "mine", body, norms='["linf"]'), trust_code=True), check)
    assert found.status == "FAILED"
    assert re.search(says, found.text), found.text


@needs_walls
def test_randomness_is_as_declared_and_a_weak_attack_is_flagged(tmp_path: Path) -> None:
    weak = sent_in(tmp_path / "weak", "pass", norms='["linf"]', datasets='["mnist"]')
    with forking():
        found = checked(weak, trust_code=True)
    assert of(found, "shape").text == "float32 (32, 1, 28, 28)"
    assert of(found, "effect").text.startswith("images that fool a linear model: linf 0 of 32: it may be too")
    assert of(found, "effect").status == "flagged"
    assert of(found, "determinism").status == "flagged"
    assert "another seed gives the same images: write randomised = false" in of(found, "determinism").text
    chance = sent_in(tmp_path / "chance", _KEEPS, norms='["linf"]', randomised="false")
    with forking():
        found = checked(chance, trust_code=True)
    assert of(found, "determinism").status == "FAILED"
    assert "another seed gives different images: write randomised = true" in of(found, "determinism").text
    write(chance, "randomised", "true")
    with forking():
        assert of(checked(chance, trust_code=True), "determinism").status == "ok"


def test_the_model_of_a_trial_knows_its_images(tmp_path: Path) -> None:
    attack = read_attack_manifest(sent_in(tmp_path / "mine"))
    model, x, y, info = subject_for(attack)
    assert info.name == "digits"
    assert x.shape == (32, 1, 8, 8)
    assert (model(x).argmax(1) == y).all()
    assert len(set(y.tolist())) > 5
    assert torch.equal(subject_for(attack).x, Trial(attack, tmp_path).subject.x)
