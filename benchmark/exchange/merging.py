"""Join results of several machines: `bench import` and `bench merge`."""

import hashlib
from collections.abc import Collection, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from robustness_bench.benchmark.errors import BenchError, StoreError
from robustness_bench.benchmark.exchange.checking import check, resting_on
from robustness_bench.benchmark.exchange.facts import Facts, examine
from robustness_bench.benchmark.exchange.layout import companions_of, owner_of
from robustness_bench.benchmark.exchange.sources import Folder, Source, tracked
from robustness_bench.benchmark.files import write_atomic
from robustness_bench.benchmark.store.folder import locked

Contents = dict[str, Facts]


@dataclass(kw_only=True)
class Merged:
    """What happens to the incoming files: new, replacing another, or left out.

    Attributes:
        out: the existing store.
        taken: name -> source of its content.
        removed: files of ``out`` that belong to a replaced file.
        left_out: files that an existing file was preferred to, or that depend on such a file.
        came: all incoming names.
    """

    out: Folder
    taken: dict[str, Source] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)
    left_out: set[str] = field(default_factory=set)
    came: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._here = frozenset(self.out.names)

    @property
    def replaced(self) -> int:
        return len(self.taken.keys() & self._here)

    @property
    def new(self) -> int:
        return len(self.taken) - self.replaced

    @property
    def same(self) -> int:
        """The number of files that exist already, or have the same result from another run."""
        return len(self.came - self.taken.keys() - self.left_out)

    def holder(self, name: str) -> Source | None:
        """Return which source has a file, among ``out`` and the files taken so far."""
        if name in self.taken:
            return self.taken[name]
        return self.out if name in self._here and name not in self.removed else None

    def take(self, name: str, source: Source) -> None:
        self.taken[name] = source
        self.left_out.discard(name)
        self.removed.discard(name)

    def drop(self, name: str) -> None:
        """Remove such a file, even one without an owner."""
        self.taken.pop(name, None)
        if (self.out.root / name).is_file():
            self.removed.add(name)


def merge(sources: Sequence[Source], out: Path, *, keep: str = "", dry_run: bool = False) -> Merged:
    """Check ``sources`` and add their new results to the store ``out``.

    An existing equal file, or equal result made elsewhere, stays unchanged; a result replaces a failure.
    If killed, the same call finishes the merge.

    Args:
        keep: whose file is kept if results of one id differ; empty: reject.
        dry_run: only report what would be done.

    Raises:
        StoreError: a file is invalid, or results differ; then nothing is written.
        BenchError: an unknown ``keep``.
    """
    if keep not in ("", "ours", "theirs"):
        raise BenchError(f"--keep must be ours or theirs, got {keep!r}")
    contents = [check(source) for source in sources]
    merged = _joined(sources, contents, Folder(out), keep)
    if dry_run or not (merged.taken or merged.removed):
        return merged
    with locked(out):
        # Read again, since a run may have ended meanwhile.
        merged = _joined(sources, contents, Folder(out), keep)
        _land(merged)
    return merged


def _joined(sources: Sequence[Source], contents: Sequence[Contents], out: Folder, keep: str) -> Merged:
    merged = Merged(out=out)
    known = dict(zip(map(id, sources), contents, strict=True))
    for source, own in zip(sources, contents, strict=True):
        _Joining(source, own, merged, known, keep).join()
    return merged


class _Joining:
    """One source compared with what exists so far."""

    def __init__(
        self, source: Source, contents: Contents, merged: Merged, known: dict[int, Contents], keep: str
    ) -> None:
        self._source, self._contents, self._merged = source, contents, merged
        self._known, self._keep = known, keep
        self._names = frozenset(source.names)

    def join(self) -> None:
        self._merged.came |= self._names
        verdicts = {name: self._verdict(name) for name in tracked(list(self._contents), "comparing")}
        differing = {name for name, verdict in verdicts.items() if verdict == "differs"}
        if differing and not self._keep:
            raise self._not_reproducible(differing)
        lost = {self._contents[name].id for name in differing if self._contents[name].sha256}
        wanted = {name for name, verdict in verdicts.items() if verdict in ("new", "better")}
        unwanted = {name for name, verdict in verdicts.items() if verdict == "worse"}
        if self._keep == "ours":
            unwanted |= differing | (wanted & resting_on(lost, self._contents))
        else:
            wanted |= differing
            self._check_orphans(lost, verdicts.keys() - unwanted)
        for name in sorted(self._contents):
            if name in unwanted:
                self._merged.left_out |= {name, *companions_of(name)} & self._names
            else:
                self._take(name, name in wanted)

    def _verdict(self, name: str) -> Literal["new", "same", "better", "worse", "differs"]:
        """Compare their file with ours."""
        holder = self._merged.holder(name)
        if holder is None:
            return "new"
        if holder.digest(name) == self._source.digest(name):
            return "same"
        ours, theirs = self._facts(holder, name), self._contents[name]
        if ours.ok != theirs.ok:
            return "better" if theirs.ok else "worse"
        return "same" if ours.result == theirs.result else "differs"

    def _facts(self, holder: Source, name: str) -> Facts:
        known = self._known.get(id(holder))
        return known[name] if known else examine(holder, name)

    def _take(self, name: str, wanted: bool) -> None:
        """Take a file, if wanted, and its companions: those it comes with, or that are missing here."""
        merged, source = self._merged, self._source
        if wanted:
            merged.take(name, source)
        for companion in companions_of(name):
            if companion in self._names:
                if self._is_wanted(companion, self._contents[name], wanted):
                    merged.take(companion, source)
            elif wanted:
                merged.drop(companion)

    def _is_wanted(self, companion: str, owner: Facts, with_owner: bool) -> bool:
        """Return whether to take a companion: if it is missing here, damaged, or new with its owner."""
        held = self._merged.holder(companion)
        if held is None:
            return True
        described = bool(owner.sha256) and companion.endswith(".safetensors")
        return (with_owner or described) and held.digest(companion) != self._source.digest(companion)

    def _check_orphans(self, lost: set[str], replaced: Set[str]) -> None:
        """Raise StoreError if a file here depends on tensors to be replaced, and is not replaced itself."""
        if not lost:
            return
        merged = self._merged
        names = sorted(name for name in {*merged.out.names, *merged.taken} if not owner_of(name))
        held = {name: self._facts(merged.holder(name) or merged.out, name) for name in names}
        orphans = sorted(resting_on(lost, held) - replaced)
        if orphans:
            raise StoreError(
                f"{len(orphans)} files of {merged.out} depend on a model or images that --keep theirs would "
                f"replace, the first is {orphans[0]}: take {self._source} into a new --out, then bench merge "
                f"{merged.out} into that with --keep ours"
            )

    def _not_reproducible(self, names: Collection[str]) -> StoreError:
        name = min(names, key=lambda each: (not self._contents[each].sha256, each))
        more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
        facts, holder = self._contents[name], self._merged.holder(name)
        what = "measured different values for it"
        if facts.sha256:
            what = "have different tensors for it, and what was made with them does not belong together"
        elif facts.cell:
            what = f"have different rows for one cell, {facts.cell}: this result was not reproduced"
        return StoreError(
            f"{name}{more}: {holder} and {self._source} {what}; nothing was written, find out why or say "
            "--keep ours or --keep theirs"
        )


def _land(merged: Merged) -> None:
    """Write the taken files in an order in which no reader or crash finds an owner with another's tensors."""
    root = merged.out.root
    owned = sorted(name for name in merged.taken if owner_of(name))
    owners = sorted(name for name in merged.taken if not owner_of(name))
    for name in sorted({*merged.removed, *owned}):
        (root / name).unlink(missing_ok=True)
    for name in tracked([*owners, *owned], "writing"):
        source = merged.taken[name]
        with source.file(name) as path:
            content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != source.digest(name):
            raise StoreError(f"{source}/{name} changed meanwhile: run the same command again")
        write_atomic(root / name, content)
