"""`bench import` and `bench merge`: what is new comes in, what differs is news, and killed it finishes."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from robustness_bench.benchmark.exchange import merging
from robustness_bench.benchmark.exchange.layout import finished
from robustness_bench.benchmark.files import write_atomic
from robustness_bench.benchmark.plan.tasks import Task
from robustness_bench.benchmark.store import cards as checkpoints
from robustness_bench.benchmark.store.cells import find_records, read_record
from robustness_bench.benchmark.store.folder import locked
from tests.benchmark.exchange.test_archive import ASKED, tree, write_store
from tests.conftest import Bench, Said

ALL = ["--with-weights", "--with-images"]


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    write_store(tmp_path / "ours")
    return tmp_path / "ours"


class Pair:
    """A store of ours, and another that is taken in by the way under test."""

    def __init__(self, bench: Bench, how: str, ours: Path) -> None:
        self.bench, self.how, self.ours = bench, how, ours
        self.theirs = ours.parent / "theirs"

    def take(self, *options: object) -> Said:
        if self.how == "merge":
            return self.bench("merge", self.theirs, "--out", self.ours, *options)
        archive = self.ours.parent / "a.zip"
        archive.unlink(missing_ok=True)
        assert self.bench("export", self.theirs, archive, *ALL).status == 0
        return self.bench("import", archive, "--out", self.ours, *options)

    def refused(self, *options: object) -> str:
        """What a take says that changes nothing."""
        before = tree(self.ours)
        said = self.take(*options)
        assert said.status == 2, said.out
        assert len(said.err.strip().splitlines()) == 1
        assert tree(self.ours) == before
        return said.err

    def taken(self, *options: object) -> str:
        said = self.take(*options)
        assert said.status == 0, said.err
        for path in self.ours.rglob("checkpoints/**/*.safetensors"):
            checkpoints.verify(path)
        for path in self.ours.rglob("crafted/**/*.safetensors"):
            checkpoints.verify(path)
        return said.out


@pytest.fixture(params=["import", "merge"])
def pair(bench: Bench, request: pytest.FixtureRequest, ours: Path) -> Pair:
    return Pair(bench, request.param, ours)


def results(store: Path) -> dict[str, str]:
    return {name: digest for name, digest in tree(store).items() if not name.endswith(".lock")}


def cell(store: Path, part: str = "pgd") -> Path:
    return next(path for path in find_records(store) if part in path.name)


def counts(new: int = 0, same: int = 0, replaced: int = 0, left_out: int = 0) -> str:
    return f"{new} new, {same} same, {replaced} replaced, {left_out} left out"


def test_elsewhere_there_is_nothing_left_to_do_and_the_table_is_the_same(
    bench: Bench, ours: Path, tmp_path: Path
) -> None:
    here = bench("run", *ASKED, "--out", ours)
    assert "nothing to do: all 4 cells are done" in here.out, here.err
    archive, there = tmp_path / "a.zip", tmp_path / "there"
    exported = bench("export", ours, archive).out
    said = bench("import", archive, "--out", there)
    assert said.status == 0
    assert exported.splitlines()[1] in said.out.replace(", digest", "\ndigest")
    assert f"bench run --out {there} with the --config of these results" in said.out
    assert "nothing to do: all 4 cells are done" in bench("run", *ASKED, "--out", there).out
    for name in ("results.csv", "costs.csv", "learning.csv", "references.bib", "tables/digits-white.html"):
        assert (there / name).read_bytes() == (ours / name).read_bytes()


def test_again_changes_nothing_and_more_seeds_come_in(pair: Pair) -> None:
    write_store(pair.theirs, seeds=2)
    files, held = len(finished(pair.theirs)), len(finished(pair.ours))
    assert counts(new=files - held, same=held) in pair.taken("--dry-run")
    assert len(finished(pair.ours)) == held
    assert not (pair.ours / ".lock").exists()
    assert counts(new=files - held, same=held) in pair.taken()
    assert results(pair.ours) == results(pair.theirs)
    before = tree(pair.ours)
    assert counts(same=files) in pair.taken()
    assert tree(pair.ours) == before


def test_a_dry_run_into_a_new_folder_makes_none(bench: Bench, ours: Path, tmp_path: Path) -> None:
    assert bench("export", ours, tmp_path / "a.zip").status == 0
    for verb, source in (("import", tmp_path / "a.zip"), ("merge", ours)):
        assert bench(verb, source, "--out", tmp_path / "new", "--dry-run").status == 0
        assert not (tmp_path / "new").exists()


def test_the_same_result_of_another_machine_stays_ours(pair: Pair) -> None:
    write_store(pair.theirs, seconds=99.0)
    before = tree(pair.ours)
    assert counts(same=len(finished(pair.ours))) in pair.taken()
    assert tree(pair.ours) == before


def test_a_result_replaces_a_failure_and_never_the_other_way(pair: Pair) -> None:
    shutil.rmtree(pair.ours)
    write_store(pair.ours, error="Traceback: memory")
    write_store(pair.theirs)
    cells, files = len(find_records(pair.ours)), len(finished(pair.theirs))
    images = files - len(finished(pair.ours))
    assert counts(new=images, same=files - cells - images, replaced=cells) in pair.taken()
    assert results(pair.ours) == results(pair.theirs)
    shutil.rmtree(pair.theirs)
    write_store(pair.theirs, error="Traceback: memory", seconds=5.0)
    before = results(pair.ours)
    left = len(finished(pair.theirs)) - cells
    assert counts(same=left, left_out=cells) in pair.taken()
    assert results(pair.ours) == before


def test_a_result_that_was_not_reproduced_is_news(pair: Pair) -> None:
    write_store(pair.theirs, fooled=4)
    said = pair.refused()
    assert "(and 1 more)" in said
    assert "linf black-box standard × pgd-40, seed 0: this result was not reproduced" in said
    assert "--keep ours or --keep theirs" in said
    assert not (pair.ours / ".lock").exists()
    assert "--keep must be ours or theirs, got 'both'" in pair.refused("--keep", "both")

    before = results(pair.ours)
    # two cells, each with an example and evidence
    assert counts(same=len(before) - 6, left_out=6) in pair.taken("--keep", "ours")
    assert results(pair.ours) == before
    assert counts(same=len(before) - 6, replaced=6) in pair.taken("--keep", "theirs")
    assert results(pair.ours) == results(pair.theirs)


def test_images_never_outlive_the_record_they_are_of(pair: Pair) -> None:
    write_store(pair.theirs, fooled=4)
    shutil.rmtree(pair.theirs / "examples")
    shutil.rmtree(pair.theirs / "evidence")
    pair.taken("--keep", "theirs")
    assert results(pair.ours) == results(pair.theirs)
    shutil.rmtree(pair.theirs)
    write_store(pair.theirs, fooled=3)  # of other rows than ours by now
    before = results(pair.ours)
    pair.taken("--keep", "ours")
    assert results(pair.ours) == before


def test_what_ours_lacks_beside_the_same_file_is_added(pair: Pair) -> None:
    write_store(pair.theirs)
    for folder in ("examples", "evidence"):
        shutil.rmtree(pair.ours / folder)
    for path in pair.ours.rglob("checkpoints/**/*.safetensors"):
        path.unlink()
    pair.taken()
    assert results(pair.ours) == results(pair.theirs)


def test_tensors_that_were_damaged_are_mended(pair: Pair) -> None:
    write_store(pair.theirs)
    path = next(pair.ours.rglob("checkpoints/**/*.safetensors"))
    path.write_bytes(b"damaged")
    assert counts(same=len(finished(pair.ours)) - 1, replaced=1) in pair.taken()
    assert results(pair.ours) == results(pair.theirs)


def test_a_training_that_was_begun_gives_way(pair: Pair) -> None:
    """Tensors without a card are not finished; a card that comes alone must not describe them."""
    write_store(pair.theirs)
    card = next(pair.ours.glob("checkpoints/digits/*.json"))
    tensors = card.with_suffix(".safetensors")
    card.unlink()
    tensors.write_bytes(b"other weights")
    (pair.theirs / tensors.relative_to(pair.ours)).unlink()
    pair.taken()
    assert card.exists()
    assert not tensors.exists()


def test_cells_of_two_trainings_of_a_model_are_never_mixed(pair: Pair, tmp_path: Path) -> None:
    write_store(pair.theirs, weights=2.0, seeds=2)
    said = pair.refused()
    assert "have different tensors for it, and what was made with them does not belong together" in said
    assert "checkpoints/digits/" in said

    # The white box of seed 1 rests on models that only they have, its black box on their surrogate.
    before = results(pair.ours)
    pair.taken("--keep", "ours")
    after = results(pair.ours)
    assert {name: after[name] for name in before} == before
    came = sorted(name for name in after.keys() - before.keys() if name.startswith("records/"))
    assert [name.rpartition("-")[0] for name in came] == [
        "records/digits/linf/black/standard/none-seed1",
        "records/digits/linf/white/standard/none-seed1",
        "records/digits/linf/white/standard/pgd-40-seed1",
    ]
    assert not [name for name in after if name.startswith("crafted/") and "seed1" in name and "vgg" in name]


def test_a_model_is_replaced_only_with_all_that_rests_on_it(pair: Pair) -> None:
    write_store(pair.theirs, weights=2.0)
    missing = cell(pair.theirs, "none")
    content = missing.read_bytes()
    missing.unlink()
    name = missing.relative_to(pair.theirs).as_posix()
    assert (
        f"depend on a model or images that --keep theirs would replace, the first is {name}"
        in pair.refused("--keep", "theirs")
    )
    missing.write_bytes(content)
    for path in pair.theirs.rglob("checkpoints/**/*.safetensors"):
        path.unlink()
    pair.taken("--keep", "theirs")
    assert results(pair.ours)[name] == results(pair.theirs)[name]
    assert not list(pair.ours.rglob("checkpoints/**/*.safetensors")), "they would not fit their cards"


def test_damage_on_either_side_is_named(pair: Pair) -> None:
    write_store(pair.theirs, seconds=2.0)
    record = cell(pair.ours)
    whole = record.read_bytes()
    record.write_bytes(whole[:-40])
    assert f"{record} is damaged" in pair.refused()
    record.write_bytes(whole)
    if pair.how == "merge":
        record = cell(pair.theirs)
        record.write_bytes(whole[:-40])
        assert f"{record} is damaged" in pair.refused()


def test_another_writer_is_waited_for(pair: Pair) -> None:
    write_store(pair.theirs, seeds=2)
    with locked(pair.ours):
        assert "another bench run is writing into" in pair.refused()


def test_what_a_run_ended_with_meanwhile_is_seen(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    write_store(pair.theirs, seeds=2)

    @contextmanager
    def late(out: Path) -> Iterator[None]:
        write_store(out, seeds=2, fooled=4)
        yield

    monkeypatch.setattr(merging, "locked", late)
    said = pair.take()
    assert said.status == 2
    assert "this result was not reproduced" in said.err


class Killed(BaseException):
    """What nothing catches."""


@pytest.mark.parametrize(("how", "keep"), [("import", "ours"), ("merge", "theirs")])
def test_killed_at_any_moment_it_finishes(
    bench: Bench, ours: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str, keep: str
) -> None:
    pair = Pair(bench, how, ours)
    write_store(pair.theirs, weights=2.0, seeds=2, fooled=4)
    start = Path(shutil.copytree(ours, tmp_path / "start"))
    pair.taken("--keep", keep)
    whole = results(ours)
    left = 0

    def dying(path: Path, content: bytes) -> None:
        nonlocal left
        if not left:
            raise Killed
        left -= 1
        write_atomic(path, content)

    for moment in (0, 7, 12):
        shutil.rmtree(ours)
        shutil.copytree(start, ours)
        left = moment
        with monkeypatch.context() as patch:
            patch.setattr(merging, "write_atomic", dying)
            with pytest.raises(Killed):
                pair.take("--keep", keep)
        for path in ours.rglob("c*/**/*.safetensors"):
            checkpoints.verify(path)
        for path in find_records(ours):
            read_record(path)
        pair.taken("--keep", keep)
        assert results(ours) == whole


def test_several_folders_become_one(bench: Bench, ours: Path, tmp_path: Path) -> None:
    one, two, out = tmp_path / "one", tmp_path / "two", tmp_path / "out"
    write_store(one, seeds=2)
    write_store(two, seeds=3)
    both = len(finished(two))
    said = bench("merge", ours, one, two, "--out", out)
    assert counts(new=both) in said.out, said.err
    assert results(out) == results(two)
    held = len(finished(ours))
    said = bench("merge", ours, two, one, ours, "--out", ours)
    assert counts(new=both - held, same=held) in said.out, said.err
    assert results(ours) == results(two)


def test_folders_that_disagree_are_named_before_anything_is_written(
    bench: Bench, ours: Path, tmp_path: Path
) -> None:
    write_store(tmp_path / "other", fooled=4)
    said = bench("merge", ours, tmp_path / "other", "--out", tmp_path / "out")
    assert said.status == 2
    assert f"{ours} and {tmp_path / 'other'} have different rows for one cell" in said.err
    assert not (tmp_path / "out").exists()
    said = bench("merge", ours, tmp_path / "other", "--out", tmp_path / "out", "--keep", "theirs")
    assert results(tmp_path / "out") == results(tmp_path / "other"), said.err


def test_folders_that_are_none(bench: Bench, ours: Path, tmp_path: Path) -> None:
    assert "there is no folder nowhere" in bench("merge", "nowhere", "--out", ours).err
    assert "holds no results" in bench("merge", tmp_path, "--out", ours).err
    (tmp_path / "file").write_text("")
    said = bench("merge", ours, "--out", tmp_path / "file")
    assert said.status == 2
    assert "cannot write into --out" in said.err


def test_the_store_of_these_tests_is_as_planned(tmp_path: Path) -> None:
    tasks: list[Task] = write_store(tmp_path)
    assert sum(task.kind == "evaluate" for task in tasks) == 4
    assert {task.kind for task in tasks} >= {"train", "estimators", "diagnose", "craft", "measure-mi"}
