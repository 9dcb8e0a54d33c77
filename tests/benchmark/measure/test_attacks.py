from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from robustness_bench.benchmark import batching
from robustness_bench.benchmark.batching import Batches
from robustness_bench.benchmark.context import Context
from robustness_bench.benchmark.errors import StoreError
from robustness_bench.benchmark.measure import attacks, parts, peers
from robustness_bench.benchmark.measure.attacks import Sample
from robustness_bench.benchmark.measure.parts import Columns, in_batches

NONE = {"attack": "attacks.base:NoAttack", "norm": "linf", "eps": 0.0}


def context(folder: Path, batch_size: int) -> Context:
    return Context(out=folder, device="cpu", batch_size=batch_size, threads=1)


def worker(calls: list[slice], fail_at: int | None = None) -> Callable[[slice], Columns]:
    def work(rows: slice) -> Columns:
        calls.append(rows)
        if fail_at is not None and rows.start >= fail_at:
            raise KeyboardInterrupt
        numbers = np.arange(10)[rows]
        return {"squares": numbers**2, "forwards": np.ones(len(numbers))}

    return work


def run(folder: Path, work: Callable[[slice], Columns], batch_size: int = 3) -> Columns:
    where = context(folder, batch_size)
    return in_batches(10, where, lambda *progress: None, work, folder / "cell.partial").columns


def test_an_interrupted_cell_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "KEEP_EVERY", 0.0)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, worker([], fail_at=6))
    calls: list[slice] = []
    columns = run(tmp_path, worker(calls))
    assert columns["squares"].tolist() == [number**2 for number in range(10)]
    assert [rows.start for rows in calls] == [6, 9]


def test_shards_and_what_was_done_before_them_are_joined_and_nothing_is_done_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cell is killed after six rows; a shard then does the next two, and the cell the rest."""
    monkeypatch.setattr(parts, "KEEP_EVERY", 0.0)
    calls: list[slice] = []
    where, partial = context(tmp_path, 2), tmp_path / "cell.partial"
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, worker([], fail_at=6), batch_size=2)
    shard = in_batches(10, where, lambda *told: None, worker(calls), partial, slice(4, 8))
    assert shard.columns["squares"].tolist() == [16, 25, 36, 49]
    columns = run(tmp_path, worker(calls), batch_size=2)
    assert columns["squares"].tolist() == [number**2 for number in range(10)]
    assert [rows.start for rows in calls] == [6, 8]
    parts.forget(partial)
    assert list(tmp_path.iterdir()) == []


def test_the_seconds_of_shards_are_told_where_they_are_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the last rows were in no shard, and a file is from before seconds were kept."""
    clock = [0.0]
    monkeypatch.setattr(parts, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def slow(rows: slice) -> Columns:
        clock[0] += 3.0  # seconds of a batch of two
        return worker([])(rows)

    where, partial = context(tmp_path, 2), tmp_path / "cell.partial"
    for shard in (slice(0, 4), slice(4, 8)):
        in_batches(10, where, lambda *told: None, slow, partial, shard)
    joined = in_batches(10, where, lambda *told: None, slow, partial)
    assert (joined.before, clock[0]) == (12.0, 15.0)
    assert sorted(joined.columns) == ["forwards", "squares"]
    parts.forget(partial)
    np.savez(tmp_path / "old.npz", squares=np.arange(4) ** 2, forwards=np.ones(4))
    (tmp_path / "old.npz").rename(partial)
    old = in_batches(10, where, lambda *told: None, worker([]), partial)
    assert (old.before, old.columns["squares"].tolist()) == (0.0, [number**2 for number in range(10)])


def test_damaged_state_is_named(tmp_path: Path) -> None:
    (tmp_path / "cell.partial").write_bytes(b"PK cut off")
    with pytest.raises(StoreError, match=r"cell\.partial is damaged.*delete it"):
        run(tmp_path, worker([]))


def test_automatic_batches_shrink_where_memory_runs_out_and_stay_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(batching.AUTO_BATCH, "cpu", 8)
    calls: list[slice] = []
    work = worker(calls)

    def hungry(rows: slice) -> Columns:
        if rows.stop - rows.start > 2:
            raise torch.OutOfMemoryError("planted")
        return work(rows)

    assert len(run(tmp_path, hungry, batch_size=0)["squares"]) == 10
    assert {rows.stop - rows.start for rows in calls} == {2}
    with pytest.raises(torch.OutOfMemoryError):
        run(tmp_path, hungry, batch_size=4)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 10, 50])
def test_batches_are_joined_in_order(tmp_path: Path, batch_size: int) -> None:
    sizes: list[int] = []

    def double(x: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        return 2 * x

    x = torch.arange(20.0).reshape(10, 2)
    assert torch.equal(Batches(context(tmp_path, batch_size)).apply(double, x), 2 * x)
    assert max(sizes) == min(batch_size, 10)
    assert sum(sizes) == 10


def test_a_network_s_batches_shrink_where_memory_runs_out_and_stay_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(batching.AUTO_BATCH, "cpu", 8)
    failures: list[int] = []

    def hungry(x: torch.Tensor) -> torch.Tensor:
        if len(x) > 2:
            failures.append(len(x))
            raise torch.OutOfMemoryError("planted")
        return 2 * x

    x = torch.arange(10.0)
    batches = Batches(context(tmp_path, 0))
    for _ in range(2):
        assert torch.equal(batches.apply(hungry, x), 2 * x)
    assert failures == [8, 4]
    with pytest.raises(torch.OutOfMemoryError):
        Batches(context(tmp_path, 4)).apply(hungry, x)

    def starving(x: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("planted")

    with pytest.raises(torch.OutOfMemoryError):
        Batches(context(tmp_path, 0)).apply(starving, x)


def test_pixels_become_the_same_images_part_by_part() -> None:
    """As all at once, and what is kept is a quarter of them."""
    pixels = torch.arange(256, dtype=torch.uint8).reshape(16, 1, 4, 4)
    sample = Sample(torch.arange(16), pixels, torch.zeros(16, dtype=torch.int64))
    whole = pixels.float() / 255
    parts = [sample.part(slice(start, start + 5)) for start in range(0, 16, 5)]
    assert torch.equal(torch.cat([part.x for part in parts]), whole)
    assert torch.equal(torch.cat([part.ids for part in parts]), sample.ids)
    chosen = torch.tensor([3, 1])
    assert torch.equal(sample.part(chosen).x, whole[chosen])
    assert torch.equal(Sample(sample.ids, whole, sample.y).part(chosen).x, whole[chosen])


def test_the_memory_of_a_cell_does_not_grow_with_its_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the pixels themselves, a byte each."""
    if peers._memory_reset(torch.device("cpu")) is None:
        pytest.skip("this system does not report a process's peak memory")
    model = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 10)).eval()
    monkeypatch.setattr(attacks, "load_model", lambda *arguments: model)
    monkeypatch.setattr(attacks, "circumstances", lambda *arguments: {})
    monkeypatch.setattr(attacks, "write_record", lambda *arguments: None)
    used = {}
    for n in (1000, 10_000):
        x = np.zeros((n, 3, 32, 32), np.uint8)
        splits = SimpleNamespace(test_x=x, test_y=np.zeros(n, np.int64))
        spec = {"parameters": NONE, "kind_of_attack": "natural", "norm": "linf", "n_examples": n}
        task = SimpleNamespace(
            shard=None,
            images=None,
            spec=spec,
            seed=0,
            path=Path("cell"),
            parents={"model": None},
            data=SimpleNamespace(load=lambda splits=splits: splits),
        )
        before = peers._memory_reset(torch.device("cpu"))
        attacks.evaluate(task, context(tmp_path, 100), lambda *progress: None)  # type: ignore[arg-type]
        used[n] = peers._memory_peak(torch.device("cpu")) - (before or 0.0)
    pixels = 9000 * 3 * 32 * 32 / 1e6
    assert used[10_000] - used[1000] < 3 * pixels
    assert used[10_000] < 200
