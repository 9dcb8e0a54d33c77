"""Check the files of a source, each on its own and against each other."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from robustness_bench.benchmark.errors import StoreError
from robustness_bench.benchmark.exchange.facts import Facts, examine, opened
from robustness_bench.benchmark.exchange.layout import companions_of, owner_of
from robustness_bench.benchmark.exchange.rules import WrongError, bound_table, check_generated, check_scores
from robustness_bench.benchmark.exchange.sources import Source, tracked
from robustness_bench.benchmark.files import short_hash
from robustness_bench.benchmark.store.evidence import read_evidence


def check(source: Source) -> dict[str, Facts]:
    """Return name -> facts of every file without an owner; StoreError for the first invalid file."""
    contents, faults = look_over(source, stop=True)
    for fault in faults.values():
        raise fault
    check_together(source, contents)
    return contents


def look_over(source: Source, *, stop: bool = False) -> tuple[dict[str, Facts], dict[str, StoreError]]:
    """Read every file of a source by itself and with its owner.

    Args:
        stop: end at the first invalid file.

    Returns:
        Name -> facts, for all valid files without an owner, and name -> error, for all invalid files.
    """
    contents: dict[str, Facts] = {}
    faults: dict[str, StoreError] = {}

    def examined(name: str) -> None:
        if not (owner := owner_of(name)):
            contents[name] = examine(source, name)
        elif owner in contents:
            _check_owned(source, name, contents[owner])
        elif owner not in faults:
            raise source.refusal(name, f"is there without {owner}")

    for name in tracked(sorted(source.names, key=lambda each: (bool(owner_of(each)), each)), "checking"):
        try:
            examined(name)
        except StoreError as error:
            faults[name] = error
            if stop:
                break
    return contents, faults


def check_together(source: Source, contents: dict[str, Facts]) -> None:
    """Check files against those they depend on; StoreError for the first that contradicts another."""
    _check_families(source, contents)
    _check_thresholds(source, contents)


def resting_on(identities: set[str], contents: Mapping[str, Facts]) -> set[str]:
    """Return the files with one of these among their ancestors."""
    reached = set(identities)
    while more := {f.id for f in contents.values() if reached & {*f.parents.values()}} - reached:
        reached |= more
    return {name for name, facts in contents.items() if reached & {*facts.parents.values()}}


def _check_owned(source: Source, name: str, owner: Facts) -> None:
    with opened(source, name) as path:
        if name.endswith(".safetensors"):
            _check_safetensors(path)
            if owner.sha256 and source.digest(name) != owner.sha256:
                raise WrongError("is not what its card describes: its SHA-256 differs")
            if owner.found:
                check_scores(path, owner.spec, owner.found.threshold)
            return
        if name.endswith(".npz"):
            check_generated(path, owner.spec)
            return
        bound_table(path)
        if read_evidence(path).record != owner.id:
            raise WrongError(f"is of another record than {owner.id}")


def _check_safetensors(path: Path) -> None:
    """Raise WrongError unless the file's header describes tensors that fill it."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise WrongError(f"is no safetensors file ({error})") from error


def _check_thresholds(source: Source, contents: dict[str, Facts]) -> None:
    """Check detector cells against their calibrations, if known, and that these have scores."""
    names = frozenset(source.names)
    found = {facts.id: facts.found for facts in contents.values() if facts.found}
    for name, facts in contents.items():
        if facts.found and not names.issuperset(companions_of(name)):
            raise source.refusal(name, "is there without the scores that its threshold comes from")
        for calibration, used in facts.used.items():
            if found.get(calibration, used) != used:
                raise source.refusal(name, f"has another threshold or remark than {calibration} gives it")


def _check_families(source: Source, contents: dict[str, Facts]) -> None:
    """Check each record's family, if all its ancestors are known."""
    families = _Families(contents.values())
    for name, facts in contents.items():
        try:
            found = families.of(facts.id), families.of(facts.parents.get("model", ""))
        except RecursionError as error:
            raise source.refusal(name, "has an absurd number of ancestors") from error
        for said, computed in zip((facts.family, facts.model_family), found, strict=True):
            if said and computed and said != computed:
                raise source.refusal(name, f"says it is of family {said!r}, its settings give {computed}")


class _Families:
    """Families of tasks, computed from their settings and their parents'."""

    def __init__(self, contents: Iterable[Facts]) -> None:
        self._facts = {facts.id: facts for facts in contents}
        self._known: dict[str, str] = {}

    def of(self, identity: str) -> str:
        """Return the family; empty if a file in the lineage is missing."""
        if identity not in self._known:
            self._known[identity] = ""  # so that a task that is its own ancestor ends here
            self._known[identity] = self._computed(identity)
        return self._known[identity]

    def _computed(self, identity: str) -> str:
        if identity not in self._facts:
            return ""
        facts = self._facts[identity]
        parents = {role: self.of(parent) for role, parent in facts.parents.items()}
        if not all(parents.values()):
            return ""
        own = {key: value for key, value in facts.spec.items() if key != "parents"}
        return short_hash([own, parents])
