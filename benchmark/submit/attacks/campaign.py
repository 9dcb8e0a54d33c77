"""A submitted attack against every listed defense whose models are in a store, and tables of its effect."""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from robustness_bench.benchmark.context import Context
from robustness_bench.benchmark.data import DATASETS, Located
from robustness_bench.benchmark.errors import BenchError, check_known
from robustness_bench.benchmark.files import short_hash
from robustness_bench.benchmark.measure.verification import data_of
from robustness_bench.benchmark.plan.cost import passes
from robustness_bench.benchmark.plan.tasks import Task
from robustness_bench.benchmark.report.lines.results import percent
from robustness_bench.benchmark.report.lines.worst_case import SUBMITTED, worst_case
from robustness_bench.benchmark.report.rendering.table import Cell, Column, Row, Table, spread
from robustness_bench.benchmark.report.rendering.wording import NORM_SYMBOLS, budget
from robustness_bench.benchmark.run.engines.worker import perform
from robustness_bench.benchmark.run.watching.progress import Progress
from robustness_bench.benchmark.statistics import MeanStd, mean_std
from robustness_bench.benchmark.store.cells import Record, find_records, read_record
from robustness_bench.benchmark.submit.attacks.against import spec_against, task_against
from robustness_bench.benchmark.submit.board.standing import QUICK
from robustness_bench.benchmark.submit.manifest.attack import AttackSubmission
from robustness_bench.defenses.registry import defense_presets

# The class's name in the first records, which ids are made of; ``attacks.class_names`` finds it today.
_ATTACK = "benchmark.submission.remote_attack:SubmittedAttack"
_COLUMNS = ("Worst before", "This attack", "Worst after")


class Campaign(NamedTuple):
    """An attack's cells in a store."""

    wanted: dict[str, Record]
    """cell id -> the natural-images record of the model it is against"""
    todo: list[Task]
    skipped: dict[str, str]
    """model id -> why it cannot be attacked"""


class Aim(NamedTuple):
    """What is attacked."""

    store: Path
    defenses: Collection[str] = ()
    """Empty means all."""
    quick: bool = False


def plan_campaign(
    attack: AttackSubmission, sha256: str, aim: Aim, find: Callable[[Mapping[str, Any]], Located]
) -> Campaign:
    """Return every cell of the attack: one for each white-box record of natural images.

    Args:
        sha256: hash of its attack.py.
        find: data set label -> its location.

    Raises:
        BenchError: there is nothing to attack, or a defense is unknown.
    """
    records = [(path, read_record(path)) for path in find_records(aim.store)]
    natural = [(path, record) for path, record in records if _is_natural(record)]
    if known := sorted({record.spec["defense"] for _, record in natural}):
        check_known("defense", aim.defenses, known)
    done = {record.id for _, record in records if record.status == "ok"}
    campaign = Campaign({}, [], {})
    for path, record in natural:
        label, defense = record.spec["dataset"], record.spec["defense"]
        if record.spec["norm"] not in attack.norms or defense not in (aim.defenses or (defense,)):
            continue
        if label in DATASETS and not attack.is_for(label):
            continue
        spec = _spec(attack, sha256, record, quick=aim.quick)
        identity = short_hash([spec, record.seed])
        try:
            if identity not in done:
                data = data_of(record, path, find)
                if not attack.is_for(data.info.name):
                    continue
                campaign.todo.append(task_against(aim.store, record, spec, data))
            campaign.wanted[identity] = record
        except BenchError as error:
            told = f"{label} {defense}, seed {record.seed}: {error}"
            campaign.skipped.setdefault(record.spec["parents"]["model"], told)
    if not campaign.wanted and not campaign.skipped:
        raise BenchError(_nothing(attack, aim))
    return campaign


def _spec(attack: AttackSubmission, sha256: str, record: Record, *, quick: bool) -> dict[str, object]:
    told = {
        "attack": _ATTACK,
        "norm": record.spec["norm"],
        "eps": record.spec["eps"],
        "name": attack.name,
        "authors": list(attack.authors),
        "link": attack.link,
        "sha256": sha256,
    }
    images = min(record.spec["n_examples"], QUICK) if quick else record.spec["n_examples"]
    return spec_against(record, f"{SUBMITTED}-{attack.slug}", told, n_examples=images)


def _is_natural(record: Record) -> bool:
    spec = record.spec
    return record.status == "ok" and spec["threat"] == "white" and spec["kind_of_attack"] == "natural"


def _nothing(attack: AttackSubmission, aim: Aim) -> str:
    inner = sorted(path.parent for path in aim.store.glob("*/records"))
    if inner and not (aim.store / "records").is_dir():
        return f"{aim.store} is a folder of stores: name one with --out, such as {inner[0]}"
    about = f"{', '.join(attack.datasets)} in {', '.join(attack.norms)}"
    return f"nothing to attack: {aim.store} has no white-box results for {about}; bench run makes some"


def run_campaign(todo: Sequence[Task], context: Context, *, live: bool) -> dict[str, str]:
    """Run the cells one after the other, with progress; a failure does not stop the others.

    Returns:
        Title -> traceback of each cell that failed.
    """
    failures: dict[str, str] = {}
    with Progress(todo, {task.id: passes(task) for task in todo}, live=live) as progress:
        for task in todo:
            progress.started(task)
            try:
                error = perform(task, context, partial(progress.advanced, task.id))
            except BenchError as problem:  # not a result of the cell: a damaged file, a full disk
                error = str(problem)
            progress.finished(task, error)
            if error:
                failures[task.title] = error
    return failures


def campaign_tables(name: str, wanted: Mapping[str, Record], records: Sequence[Record]) -> list[Table]:
    """Return a table per data set and threat model, with a row per model.

    Args:
        name: the attack's name.
        wanted: id of each cell of the attack -> the natural-images record of its model.
        records: all records of the store, including those cells if they exist.
    """
    groups: dict[tuple[object, ...], dict[str, list[tuple[str, Record]]]] = {}
    for identity, natural in wanted.items():
        of = groups.setdefault(natural.threat_model, {})
        of.setdefault(natural.model_family, []).append((identity, natural))
    return [_table(name, of, records) for _, of in sorted(groups.items(), key=lambda item: str(item[0]))]


def _table(name: str, families: dict[str, list[tuple[str, Record]]], records: Sequence[Record]) -> Table:
    own = {identity for cells in families.values() for identity, _ in cells}
    natural = next(iter(families.values()))[0][1]
    faced = [r for r in records if r.threat_model == natural.threat_model and _counts(r)]
    sent = [r for r in records if r.id in own and _counts(r)]
    if sent:
        faced = [_restricted(record, sent[0]) for record in faced]
    spec, others = natural.spec, [record for record in faced if record.id not in own]
    rows = [
        _row(label, others, [r for r in sent if r.model_family == family], family, len(families[family]))
        for label, family in _labels(families)
    ]
    group = f"{NORM_SYMBOLS[spec['norm']]} (ε = {budget(spec['eps'])})"
    images = sent[0].spec["n_examples"] if sent else spec["n_examples"]
    return Table(
        name="campaign",
        title=f"{name}, {spec['dataset']}",
        caption=f"Accuracy in % on {images} test images, white box. Worst: survived every attack of the set "
        "strict within ε and every submission, sample by sample.",
        measure="accuracy",
        columns=tuple(Column(group=group, label=label) for label in _COLUMNS),
        rows=tuple(rows),
    )


def _counts(record: Record) -> bool:
    """Return whether a cell counts; a failed cell of a submission does not."""
    return record.status == "ok" or record.spec["kind_of_attack"] != SUBMITTED


def _restricted(record: Record, to: Record) -> Record:
    """Return the record restricted to the images of another."""
    kept = np.isin(record.rows["sample"], to.rows["sample"])
    rows = {name: column[kept] for name, column in record.rows.items()} if record.status == "ok" else {}
    spec = {**record.spec, "n_examples": to.spec["n_examples"]}
    return dataclasses.replace(record, spec=spec, rows=rows)


def _labels(families: dict[str, list[tuple[str, Record]]]) -> list[tuple[str, str]]:
    """Return (label, family) of every row in the order of the tables; equal labels get a distinction."""
    presets = defense_presets()
    names = {family: cells[0][1].spec["defense"] for family, cells in families.items()}
    order = list(presets)
    shown = {family: presets[name].label if name in presets else name for family, name in names.items()}
    twice = {label for label in shown.values() if list(shown.values()).count(label) > 1}
    ranked = sorted(
        names, key=lambda f: (order.index(names[f]) if names[f] in order else len(order), names[f], f)
    )
    return [(f"{shown[f]} ({f})" if shown[f] in twice else shown[f], f) for f in ranked]


def _row(label: str, faced: Sequence[Record], sent: Sequence[Record], family: str, seeds: int) -> Row:
    alone = mean_std([percent(record.robust) for record in sent]) if sent else None
    text = _text(alone) if alone else "ERROR"
    if alone and len(sent) < seeds:
        text += f" ({len(sent)} of {seeds} seeds)"
    texts = (_text(_worst(family, faced)), text, _text(_worst(family, [*faced, *sent])))
    return Row(group="", label=label, cells=tuple(Cell(text=text) for text in texts))


def _worst(family: str, records: Sequence[Record]) -> MeanStd | None:
    """Return the worst case of one model, over the attacks that all models have faced."""
    chosen = [r for r in records if r.model_family == family or r.spec["kind_of_attack"] != "natural"]
    lines = worst_case(chosen, "strict")
    return lines[0].bounded if lines else None


def _text(value: MeanStd | None) -> str:
    return "–" if value is None else spread(*value[:2], 1)
