"""The standing of a submission: its measured accuracies next to its claims, and whether it is verified."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from robustness_bench.benchmark.data import DATASETS
from robustness_bench.benchmark.plan.protocol import Protocol, load_protocol
from robustness_bench.benchmark.report.lines.results import percent, sets_of
from robustness_bench.benchmark.report.lines.worst_case import NAME as WORST_CASE
from robustness_bench.benchmark.report.lines.worst_case import worst_case
from robustness_bench.benchmark.store.cells import Record
from robustness_bench.benchmark.store.diagnoses import BATCH_DEPENDENT, NOT_DIAGNOSED
from robustness_bench.benchmark.submit.board.entries import Entry, register_entry
from robustness_bench.benchmark.submit.intake.static import MODEL_FILE

_LACKS = {NOT_DIAGNOSED: "a diagnosis", BATCH_DEPENDENT: "outputs that do not depend on the batch"}
QUICK = 20  # images in a quick run
_RANDOMISED = {"aa": "aa-rand"}


class Standing(NamedTuple):
    """Derived from records, never stored."""

    status: Literal["verified", "partial"]
    """The status: verified if every attack of the full protocol has run on all images; else not ranked."""
    missing: tuple[str, ...]
    """What the records lack of the full protocol: attacks, a diagnosis."""
    images: int
    """Number of images of the records used: those of the full protocol if there are any."""
    measured: dict[str, float]
    """attack, including "none" and "worst-case" -> accuracy in %"""


def protocol_of(entry: Entry, folder: Path | None = None, *, quick: bool = False) -> Protocol:
    """Return the protocol for a submission: white box, its claimed threat model, the strict set.

    Args:
        folder: where its files are; not needed to know what is measured.
        quick: run on a few images only.
    """
    sent = entry.submission
    register_entry(entry)
    tree: dict[str, Any] = {
        "defenses": [entry.defense],
        "datasets": [sent.dataset],
        "norms": [sent.norm],
        "threats": ["white"],
        "eps": {sent.norm: sent.eps},
    }
    if not sent.own:
        tree["model"] = {"name": sent.architecture, "width": sent.width}
    if folder is not None:
        tree["weights"] = str(folder / sent.weights)
        if sent.own:
            tree["network"] = str(folder / MODEL_FILE)
        else:
            tree["weights_input"] = "plain" if sent.weights_plain else "normalised"
    attacks = load_protocol(None, tree).settings[0].attacks[sent.norm]
    if sent.randomised:
        tree["attacks"] = {"strict": {sent.norm: [_RANDOMISED.get(name, name) for name in attacks]}}
    if quick:
        tree["n_examples"] = QUICK
    return load_protocol(None, tree)


def standing(entry: Entry, records: Sequence[Record]) -> Standing:
    """Derive the standing from the records of a submission.

    Args:
        records: all records of a store; those of other defenses are ignored.
    """
    (settings,) = protocol_of(entry).settings
    sent = entry.submission
    wanted = settings.attacks[sent.norm]
    everything = DATASETS[sent.dataset].info.test_images
    images = min(settings.n_examples or everything, everything)
    own = [record for record in records if _counts(record, entry)]
    sizes = {record.spec["n_examples"] for record in own}
    shown = images if images in sizes else max(sizes, default=0)
    own = [record for record in own if record.spec["n_examples"] == shown]
    found = {record.spec["attack"] for record in own}
    missing = tuple(name for name in wanted if name not in found)
    measured = {record.spec["attack"]: percent(record.robust) for record in own}
    for line in worst_case(own, "strict"):
        if line.bounded is not None:
            measured[WORST_CASE] = line.bounded.mean
    missing += tuple(dict.fromkeys(_LACKS[record.unranked] for record in own if record.unranked))
    whole = not missing and shown == images
    return Standing("verified" if whole else "partial", missing, shown, measured)


def _counts(record: Record, entry: Entry) -> bool:
    spec, sent = record.spec, entry.submission
    return (
        record.status == "ok"
        and spec["defense"] == entry.defense
        and (spec["dataset"], spec["norm"], spec["threat"]) == (sent.dataset, sent.norm, "white")
        and spec["eps"] == sent.eps
        and "strict" in sets_of(spec)
        and "precision" not in spec["parameters"]
    )
