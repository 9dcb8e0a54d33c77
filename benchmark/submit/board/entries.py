"""Submissions with records in a store: ``submissions/<slug>.json`` holds each manifest."""

from dataclasses import dataclass
from pathlib import Path

from robustness_bench.benchmark.data import Located
from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.files import check_format, file_hash, read_json, reading, write_json
from robustness_bench.benchmark.models import checked
from robustness_bench.benchmark.plan.protocol import Protocol
from robustness_bench.benchmark.report import publish as report
from robustness_bench.benchmark.report.rendering.table import Table
from robustness_bench.benchmark.submit.intake.static import MODEL_FILE
from robustness_bench.benchmark.submit.manifest.defense import Submission
from robustness_bench.defenses.registry import DefensePreset, register

FORMAT = 1
GROUP = "submitted"
_REMEDY = "delete it and run bench submit run again"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A submission, and the code that its records used."""

    submission: Submission
    network: str
    """SHA-256 of its model.py; empty if it has none."""

    @property
    def defense(self) -> str:
        """Its name in records, which no built-in defense has."""
        return f"{GROUP}-{self.submission.slug}"


def entry_of(submission: Submission, folder: Path) -> Entry:
    """Return the entry of a checked submission in ``folder``."""
    return Entry(submission=submission, network=file_hash(folder / MODEL_FILE) if submission.own else "")


def add_entry(store: Path, entry: Entry) -> None:
    """Write the entry; a submission with the same weights may correct its manifest.

    Raises:
        BenchError: the store has another submission with this name.
    """
    path = store / "submissions" / f"{entry.submission.slug}.json"
    if path.is_file():
        before = read_entry(path)
        same = (before.submission.sha256, before.network) == (entry.submission.sha256, entry.network)
        if not same:
            raise BenchError(
                f"{store} has a submission {entry.submission.name!r} with other weights or code: give this "
                f"one another name, or delete {path} and its records"
            )
    told = {"slug": entry.submission.slug, **entry.submission.model_dump(mode="json")}
    story = {"format": FORMAT, "network": entry.network, "submission": told}
    write_json(path, story, for_people=True)


def find_entries(store: Path) -> list[Entry]:
    """Return all entries of a store, by slug, as ``read_entry`` does each."""
    return [read_entry(path) for path in sorted(store.glob("submissions/*.json"))]


def register_entries(store: Path) -> None:
    """Register the submissions of a store as defenses, so that tables have rows for them."""
    for entry in find_entries(store):
        register_entry(entry)


def publish(out: Path, protocol: Protocol, data: dict[str, Located]) -> list[Table]:
    """Call ``report.publish`` with the store's submissions registered as defenses, so that they have rows."""
    register_entries(out)
    return report.publish(out, protocol, data)


def register_entry(entry: Entry) -> None:
    """Register one submission as a defense that is loaded, never trained."""
    sent = entry.submission
    register(
        DefensePreset(
            name=entry.defense,
            label=sent.name,
            group=GROUP,
            adversarial=True,
            requires=(),
            source=sent.paper or sent.code,
            defense="",
            parameters={},
        )
    )


def read_entry(path: Path) -> Entry:
    """Read one entry; StoreError, which names the file, if it is damaged."""
    story = read_json(path, _REMEDY)
    check_format(path, story.get("format"), FORMAT)
    with reading(path, _REMEDY):
        told = dict(story["submission"])
        slug = told.pop("slug")
        submission = checked(Submission, told, kind=ValueError)
        if slug != submission.slug:
            raise ValueError(f"its slug is {slug!r}, its name gives {submission.slug}")
        return Entry(submission=submission, network=str(story["network"]))
