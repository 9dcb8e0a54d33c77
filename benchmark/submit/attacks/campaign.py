"""A submitted attack against every listed defense whose models are in a store."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from robustness_bench.benchmark.context import Context
from robustness_bench.benchmark.data import DATASETS, Located
from robustness_bench.benchmark.errors import BenchError, check_known
from robustness_bench.benchmark.measure.verification import data_of
from robustness_bench.benchmark.plan.cost import passes
from robustness_bench.benchmark.plan.tasks import Task
from robustness_bench.benchmark.report.lines.worst_case import SUBMITTED
from robustness_bench.benchmark.run.engines.worker import perform
from robustness_bench.benchmark.run.progress import Progress
from robustness_bench.benchmark.store.cells import Record, find_records, read_record
from robustness_bench.benchmark.submit.attacks.against import identity_of, spec_against, task_against
from robustness_bench.benchmark.submit.manifest.attack import AttackSubmission

_ATTACK = "benchmark.submission.remote_attack:SubmittedAttack"
_QUICK = 20  # images in a quick run


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
        if record.spec["norm"] in attack.norms and record.spec["defense"] in (
            aim.defenses or (record.spec["defense"],)
        ):
            _add(campaign, attack, sha256, aim, done, (path, record), find)
    if not campaign.wanted and not campaign.skipped:
        raise BenchError(_nothing(attack, aim))
    return campaign


def _add(
    campaign: Campaign,
    attack: AttackSubmission,
    sha256: str,
    aim: Aim,
    done: Collection[str],
    of: tuple[Path, Record],
    find: Callable[[Mapping[str, Any]], Located],
) -> None:
    path, record = of
    label = record.spec["dataset"]
    if label in DATASETS and not attack.is_for(label):
        return
    spec = _spec(attack, sha256, record, quick=aim.quick)
    identity = identity_of(spec, record.seed)
    try:
        if identity not in done:
            data = data_of(record, path, find)
            if not attack.is_for(data.info.name):
                return
            campaign.todo.append(task_against(aim.store, record, spec, data))
        campaign.wanted[identity] = record
    except BenchError as error:
        told = f"{label} {record.spec['defense']}, seed {record.seed}: {error}"
        campaign.skipped.setdefault(record.spec["parents"]["model"], told)


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
    images = min(record.spec["n_examples"], _QUICK) if quick else record.spec["n_examples"]
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
