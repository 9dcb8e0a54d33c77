"""A submission from the template to its checks: what is read, what is said, how it ends."""

import json
import runpy
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from robustness_bench.benchmark.data.digits import DIGITS
from robustness_bench.benchmark.errors import BenchError, StoreError
from robustness_bench.benchmark.networks import build_model
from robustness_bench.benchmark.sandbox.confinement import protections
from robustness_bench.benchmark.submit.board.entries import add_entry, entry_of, read_entry
from robustness_bench.benchmark.submit.checks.probes import interval
from robustness_bench.benchmark.submit.intake.archives import Caps, RefusedError
from robustness_bench.benchmark.submit.intake.reading import unpacked
from robustness_bench.benchmark.submit.intake.template import write_template
from robustness_bench.benchmark.submit.manifest.defense import ManifestError, read_manifest
from robustness_bench.benchmark.submit.manifest.text import fraction, link, percentage, plain, slug_of
from tests.benchmark.submit.submissions import (
    EXAMPLE,
    WEIGHTS,
    InProcess,
    checked,
    copied,
    of,
    probe_quickly,
    rehash,
    rewrite,
    run_in_process,
    seeded,
    tensors_of,
    tree_hash,
    with_code,
    write,
)
from tests.conftest import Bench

NAMES = ["schema", "files", "hash", "licence", "forward passes", "weights", "loading", "shape", "logits"]
NAMES += ["range", "determinism", "batches", "gradients", "masking", "natural accuracy", "robust accuracy"]
NAMES += ["speed"]


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    run_in_process(monkeypatch)
    probe_quickly(monkeypatch)
    return copied(tmp_path)


def test_the_example_is_read_as_it_is_written() -> None:
    read = read_manifest(EXAMPLE)
    assert (read.slug, read.name, read.authors) == (
        "standard-at-small",
        "Standard AT, small",
        ("The Robustness Bench authors",),
    )
    assert (read.dataset, read.norm, read.eps) == ("digits", "linf", 0.18)
    assert (read.architecture, read.width, read.own, read.weights_plain) == ("resnet-18", 4, False, False)
    assert (read.forward_passes, read.randomised, read.real, read.synthetic) == (1, False, 0, 0)
    assert set(read.claimed) == {"natural", "aa"}
    assert 0 < read.claimed["aa"] < read.claimed["natural"] <= 100
    assert (EXAMPLE / WEIGHTS).stat().st_size < 2**20


def test_the_example_is_the_template_as_its_script_fills_it_in(tmp_path: Path) -> None:
    """All but its notes: whoever changes the template makes the example anew."""
    script = runpy.run_path(str(EXAMPLE.parent / "make.py"))
    (template,) = write_template(tmp_path / "template", own=False)
    claimed = read_manifest(EXAMPLE).claimed
    accuracy = {"none": claimed["natural"], "aa": claimed["aa"]}
    filled = script["filled"](template.read_text(), script["values"](EXAMPLE / WEIGHTS, accuracy))
    written = (EXAMPLE / "submission.toml").read_text()
    assert [line for line in filled.splitlines() if not line.startswith("notes")] == [
        line for line in written.splitlines() if not line.startswith("notes")
    ]


def test_every_check_passes_on_the_example(bench: Bench, example: Path) -> None:
    before = tree_hash(example)
    said = bench("submit", "check", example)
    assert said.status == 0, said.out
    lines = said.out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["ok"] * len(NAMES)
    assert lines[-1] == "all checks passed"
    assert tree_hash(example) == before


def test_json_says_the_same(bench: Bench, example: Path) -> None:
    write(example, "natural", "99.9")
    said = bench("submit", "check", example, "--json")
    told = json.loads(said.out)
    assert said.status == 1
    assert told["complete"] is False
    assert [each["name"] for each in told["checks"]] == NAMES
    assert {each["name"] for each in told["checks"] if each["status"] != "ok"} == {"natural accuracy"}


def test_what_cannot_be_read_is_one_line_and_status_2(bench: Bench, tmp_path: Path) -> None:
    said = bench("submit", "check", tmp_path)
    assert said.status == 2
    assert "has no submission.toml in it; bench submit init DIR writes one" in said.err
    assert said.out == ""


def test_the_template_says_what_is_missing(bench: Bench, tmp_path: Path) -> None:
    """One line for each value that is empty, and one for the weights; filled in, nothing is left."""
    folder = tmp_path / "mine"
    assert bench("submit", "init", folder).status == 0
    assert sorted(path.name for path in folder.iterdir()) == ["submission.toml"]
    said = bench("submit", "check", folder)
    failed = [line for line in said.out.splitlines() if line.startswith("FAILED")]
    empty = ["name", "authors", "licence", "contact", "dataset", "threat.norm", "threat.eps"]
    empty += ["model.architecture", "model.width", "model.sha256", "claimed.natural", "claimed.aa"]
    assert said.status == 1
    assert sorted(line.split()[2] for line in failed[:-1]) == sorted([*empty, "paper"])
    assert all(" is empty: " in line or "are both empty: " in line for line in failed[:-1])
    assert failed[-1].split(maxsplit=2)[1:] == [
        "files",
        "there is no .safetensors file: put the weights there",
    ]


def test_the_template_tells_the_hash_of_weights_that_are_there(example: Path) -> None:
    write(example, "sha256", '""')
    (line,) = [each for each in checked(example) if each.status == "FAILED"]
    hashed = read_manifest(EXAMPLE).sha256
    assert line.text == f'model.sha256 is empty: {WEIGHTS} has sha256 = "{hashed}"'


@pytest.mark.skipif(any(not wall.stands for wall in protections()), reason="code cannot be confined here")
def test_the_template_for_own_code_is_sound(tmp_path: Path) -> None:
    """Run for real: it builds, its weights load, and all that may be wrong is that nobody trained it."""
    sent, folder = copied(tmp_path), tmp_path / "own"
    write_template(folder, own=True)
    lines = (sent / "submission.toml").read_text().splitlines()
    for key in ("name", "authors", "paper", "licence", "contact", "dataset", "norm", "eps"):
        (line,) = (each for each in lines if each.startswith(f"{key} = "))
        write(folder, key, line.partition(" = ")[2])
    write(folder, "natural", "10.0")
    write(folder, "aa", "1.0")
    scope: dict[str, Callable[..., nn.Module]] = {}
    exec((folder / "model.py").read_text(), scope)
    with seeded():
        model = scope["build"](classes=10, channels=1, size=8)
    rewrite(folder, {name: tensor.contiguous() for name, tensor in model.state_dict().items()})
    found = checked(folder, trust_code=True)
    untrained = {"range", "masking", "natural accuracy", "all others"}
    assert {each.name for each in found if each.status != "ok"} <= untrained
    assert of(found, "shape").text == "logits (N, 10), finite"


@pytest.mark.skipif(any(not wall.stands for wall in protections()), reason="code cannot be confined here")
def test_what_confined_code_does_wrong_is_one_line(tmp_path: Path) -> None:
    sent, mark = copied(tmp_path), tmp_path / "written"
    with_code(sent)
    code = f"def build(**_):\n    open({str(mark)!r}, 'w')\n"
    (sent / "model.py").write_text(code)
    loading = of(checked(sent, trust_code=True), "loading")
    assert loading.status == "FAILED"
    assert "model.py" in loading.text
    assert len(loading.text.splitlines()) == 1
    assert not mark.exists()


def test_init_leaves_a_folder_alone_that_is_not_empty(bench: Bench, example: Path, tmp_path: Path) -> None:
    before = tree_hash(example)
    said = bench("submit", "init", example)
    assert (said.status, tree_hash(example)) == (2, before)
    assert "is not empty and stays as it is" in said.err
    (tmp_path / "file").write_text("x")
    assert "is a file; name a folder" in bench("submit", "init", tmp_path / "file").err


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("name", "<b>", "name has '<' in it"),
        ("paper", "javascript:x", "is not an http or https link"),
        ("width", "4", "width must be a whole number, got '4'"),
        ("slug", "other", "its slug is 'other', its name gives standard-at-small"),
        ("more", 1, "unknown key 'more'"),
    ],
)
def test_an_entry_from_elsewhere_is_checked_as_its_manifest_is(
    tmp_path: Path, key: str, value: object, said: str
) -> None:
    entry = entry_of(read_manifest(EXAMPLE), EXAMPLE)
    add_entry(tmp_path, entry)
    (path,) = (tmp_path / "submissions").iterdir()
    assert read_entry(path) == entry
    story = json.loads(path.read_text())
    story["submission"][key] = value
    path.write_text(json.dumps(story))
    with pytest.raises(StoreError, match=rf"standard-at-small\.json is damaged \(.*{said}"):
        read_entry(path)


def test_several_problems_are_all_listed(example: Path) -> None:
    write(example, "name", '"<b>"')
    write(example, "norm", '"l7"')
    write(example, "real", "-1")
    with pytest.raises(ManifestError) as raised:
        read_manifest(example)
    assert [problem.split()[0] for problem in raised.value.problems] == ["name", "threat.norm", "data.real"]
    assert len(str(raised.value).splitlines()) == 3


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "dotted"])
def test_an_archive_reads_as_the_folder_does(example: Path, kind: str) -> None:
    sent = example.with_suffix(f".{kind}")
    if kind == "zip":
        with zipfile.ZipFile(sent, "w", zipfile.ZIP_DEFLATED) as packed:
            for path in example.iterdir():
                packed.write(path, path.name)
    else:
        with tarfile.open(sent, "w" if kind == "tar" else "w:gz") as archive:
            archive.add(example, "." if kind == "dotted" else "", recursive=kind == "dotted")
            for path in [] if kind == "dotted" else sorted(example.iterdir()):
                archive.add(path, path.name)
    with unpacked(sent) as folder:
        assert tree_hash_of_contents(folder) == tree_hash_of_contents(example)
    assert not folder.exists()


def tree_hash_of_contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_sizes_are_counted_as_they_come(example: Path) -> None:
    """Whatever was declared: one byte over is refused, exactly the limit is not."""
    total = sum(path.stat().st_size for path in example.iterdir())
    with unpacked(example, Caps(unpacked=total)):
        pass
    with (
        pytest.raises(RefusedError, match="far more than its own size"),
        unpacked(example, Caps(unpacked=total - 1)),
    ):
        pass
    weights = (example / WEIGHTS).stat().st_size
    with unpacked(example, Caps(weights=weights)):
        pass
    with (
        pytest.raises(RefusedError, match=f"{WEIGHTS} has .* at most"),
        unpacked(example, Caps(weights=weights - 1)),
    ):
        pass


def test_an_archive_larger_than_any_submission_is_not_opened(example: Path) -> None:
    sent = example.with_suffix(".zip")
    sent.write_bytes(b"PK" + bytes(5000))
    with pytest.raises(RefusedError, match=r"is larger than 4\.883 KiB"), unpacked(sent, Caps(unpacked=5000)):
        pass


def test_code_is_not_run_unless_it_is_trusted(bench: Bench, example: Path, tmp_path: Path) -> None:
    with_code(example)
    mark = tmp_path / "ran"
    code = example / "model.py"
    code.write_text(f"open({str(mark)!r}, 'w').close()\n{code.read_text()}")
    said = bench("submit", "check", example)
    assert said.status == 1
    assert "model.py is code: read it, then add --trust-code" in said.out
    assert said.out.splitlines()[-1] == "1 skipped: not fully checked"
    assert not mark.exists()
    said = bench("submit", "check", example, "--trust-code")
    assert (said.status, said.out.splitlines()[-1]) == (0, "all checks passed"), said.out
    assert mark.exists()


@pytest.mark.parametrize("body", ["return self.inner(x)", "raise MemoryError"])
def test_the_process_of_the_code_ends_with_the_check(example: Path, body: str) -> None:
    with_code(example, body)
    before = InProcess.running
    assert of(checked(example, trust_code=True), "loading").status == "ok"
    assert InProcess.running == before


def test_a_randomised_defense_that_says_so_passes(example: Path) -> None:
    with_code(example, "return self.inner(x) + 0.01 * torch.randn_like(x).flatten(1)[:, :10]")
    write(example, "randomised", "true")
    found = checked(example, trust_code=True)
    assert [each for each in found if each.status != "ok"] == []
    assert "randomised as declared" in of(found, "determinism").text
    assert of(found, "batches").text == "not compared for a randomised defense"


def test_a_truly_linear_model_has_one_gradient_and_is_no_liar(example: Path) -> None:
    """Its gradient is the same everywhere because the model is linear, which is not held against it."""
    with_code(example)
    (example / "model.py").write_text(
        "from torch import nn\n\n\ndef build(*, classes, channels, size):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, classes))\n"
    )
    with seeded():
        layer = nn.Linear(64, 10)
    write(example, "natural", "2.0")
    write(example, "aa", "0.1")
    rewrite(example, {"1.weight": layer.weight.detach(), "1.bias": layer.bias.detach()})
    assert of(checked(example, trust_code=True), "gradients").status == "ok"


def test_weights_that_are_plain_are_tried_as_such(example: Path) -> None:
    """The network alone: kept as it is with our normalisation, found out without."""
    write(example, "weights_plain", "false")
    with seeded():
        assert set(build_model("resnet-18", DIGITS.info, 4).state_dict()) == set(tensors_of(example))
    alone = {name[2:]: tensor for name, tensor in tensors_of(example).items() if name.startswith("1.")}
    rewrite(example, alone)
    assert [each for each in checked(example) if each.status != "ok"] == []


def test_without_the_images_the_rest_is_skipped(
    example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(example, "dataset", '"mnist"')
    write(example, "eps", "0.3")
    found = checked(example)
    assert of(found, "loading").status == "ok"
    assert found[-1].status == "skipped"
    assert found[-1].text.startswith("need test images: no mnist in data: put ")


def test_claims_are_checked_at_the_edge_of_the_interval(example: Path) -> None:
    """350 of 360 right: a claim just inside the 99 % interval passes, one just outside does not."""
    natural = of(checked(example), "natural accuracy")
    low, high = (
        float(part) for part in natural.text.partition("interval ")[2].partition(")")[0].split(" to ")
    )
    for claim, status in (
        (low + 0.1, "ok"),
        (high - 0.1, "ok"),
        (low - 0.1, "flagged"),
        (high + 0.1, "flagged"),
    ):
        write(example, "natural", f"{claim:.2f}")
        assert of(checked(example), "natural accuracy").status == status


def test_the_interval_is_wilsons_at_99_percent() -> None:
    """By hand: z = 2.5758, n = 100, p = 1/2."""
    assert interval(0.5, 100) == pytest.approx((0.37528, 0.62472), abs=1e-5)


def test_a_claim_of_half_the_truth_about_attacks_is_no_lie(example: Path) -> None:
    """A quick attack bounds the worst case from above only."""
    write(example, "aa", "0.1")
    assert of(checked(example), "robust accuracy").status == "ok"


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Standard AT, small", "standard-at-small"),
        ("  TRADES++ (β = 6)  ", "trades-6"),
        ("Défense à l'été", "defense-a-l-ete"),
        ("../../etc/passwd", "etc-passwd"),
        ("x" * 80, "x" * 60),
        ("a" * 59 + " b", "a" * 59),
    ],
)
def test_slugs(name: str, slug: str) -> None:
    assert slug_of(name) == slug


def test_a_name_without_latin_letters_has_a_slug_of_its_own() -> None:
    assert slug_of("防御").startswith("defense-")
    assert slug_of("防御") != slug_of("对抗")


def test_text_and_numbers_from_strangers() -> None:
    assert plain("  E\u0301cole\u00b2 ", 80) == "École²"
    assert plain("a < b\nc", 80, markup=True, lines=True) == "a < b\nc"
    assert fraction("8/255") == 8 / 255
    assert fraction(" 0.031 ") == 0.031
    assert percentage(0) == 0.0
    assert percentage(100) == 100.0
    assert (
        link("https://arxiv.org/abs/1706.06083?a=b&c=%20#d") == "https://arxiv.org/abs/1706.06083?a=b&c=%20#d"
    )
    bad: object
    for bad in ("8/", "1e3", "/255", "٣", "", None, [], 10**400, float("inf"), 0, "0/1"):
        with pytest.raises(ValueError, match="must be a number above 0"):
            fraction(bad)
    for bad in (-0.1, 100.1, float("nan"), True, "5"):
        with pytest.raises(ValueError, match="must be a number from 0 to 100"):
            percentage(bad)
    for bad in (
        "//a.org",
        "ftp://a.org",
        "https://a b",
        "https://a.org/<",
        "data:text/html,x",
        "HTTPS:/x",
        5,
    ):
        with pytest.raises(ValueError, match=r"link|percent-encode"):
            link(bad)


def test_limits_of_a_manifest(example: Path) -> None:
    """The largest that passes."""
    write(example, "name", f'"{"ü" * 80}"')
    write(example, "eps", "1.0")
    write(example, "forward_passes", "1")
    write(example, "synthetic", "10_000_000_000")
    assert read_manifest(example).synthetic == 10**10
    write(example, "eps", "1.001")
    with pytest.raises(BenchError, match="does not fit into the pixel box, 1 at most"):
        read_manifest(example)
    write(example, "norm", '"l2"')
    write(example, "eps", "8.0")
    assert read_manifest(example).eps == 8.0
    write(example, "eps", "8.01")
    with pytest.raises(BenchError, match=r"pixel box, 8 at most$"):
        read_manifest(example)


def test_a_hash_in_capitals_is_the_same_hash(example: Path) -> None:
    rehash(example)
    declared = read_manifest(example).sha256
    write(example, "sha256", f'"{declared.upper()}"')
    assert read_manifest(example).sha256 == declared


def test_scratch_folders_do_not_pile_up(
    example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    (example / "train.py").write_text("x")
    with pytest.raises(RefusedError), unpacked(example):
        pass
    assert list(scratch.iterdir()) == []


def test_many_images_do_not_change_the_random_state(example: Path) -> None:
    """A check draws from no generator that is the caller's."""
    torch.manual_seed(3)
    before = torch.get_rng_state()
    checked(example)
    assert torch.equal(before, torch.get_rng_state())
