"""`bench perf`: our attacks and training step beside those of other libraries, measured in turns."""

import json
import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from robustness_bench.benchmark.cli.shared.labelled import Json
from robustness_bench.benchmark.cli.shared.options import Names, Request, split, takes_request
from robustness_bench.benchmark.errors import BenchError, check_known, last_line

if TYPE_CHECKING:
    from robustness_bench.benchmark.context import Context
    from robustness_bench.benchmark.data import Located
    from robustness_bench.benchmark.measure.peers import Figures
    from robustness_bench.benchmark.plan.protocol import Protocol, Settings
    from robustness_bench.benchmark.plan.tasks import Task
    from robustness_bench.benchmark.report.rendering.table import Table

_FOLDER = "perf"


class Subject(NamedTuple):
    """A model to measure on."""

    task: "Task"
    settings: "Settings"
    norm: str

    @property
    def name(self) -> str:
        """Of the files, unless the user names them."""
        return self.task.path.stem


@takes_request
def perf(
    request: Request,
    of: Annotated[
        Names, typer.Option("--of", help="What: pgd, aa, cw, ddn, training; default: pgd and training.")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", help="Turns of each.")] = 5,
    name: Annotated[
        str, typer.Option("--name", help="Of the files that are written; default: the model's.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Measure attacks and a training step against other libraries, on the same weights and images.

    Those that are installed take part: pyautoattack, foolbox, torchattacks, adv-lib, and a loop as one
    writes it by hand. Each takes a turn in every round, so that a machine that slows down slows them
    all. A ratio compares two turns of one round, the first line of its group being 1. The model is Standard
    AT (or --defense) on digits (or --dataset), trained unless --weights names one. Prints seconds of
    processor time, ratios, accuracies, distances, passes and memory, and writes them to perf/NAME.json and
    perf/NAME.csv in the folder of results, with hardware, versions, date and command.
    """
    from robustness_bench.benchmark.context import choose_device
    from robustness_bench.benchmark.measure.peers import FAMILIES
    from robustness_bench.benchmark.plan.tasks import Planner
    from robustness_bench.benchmark.report.rendering.formats import to_text
    from robustness_bench.benchmark.run.work import run
    from robustness_bench.benchmark.store.folder import is_done

    families = split(of or ["pgd", "training"])
    check_known("family", families, FAMILIES)
    if rounds < 1:
        raise BenchError(f"--rounds must be at least 1, got {rounds}")
    usual: dict[str, Any] = {"dataset": ["digits"], "defense": ["standard"], "norm": ["linf"]}
    if not request.config:
        request = replace(request, **{key: getattr(request, key) or own for key, own in usual.items()})
    subjects: list[Subject] = []
    measured: list[dict[str, Any]] = []

    def models(protocol: "Protocol", data: "dict[str, Located]") -> "list[Task]":
        subjects.extend(
            Subject(Planner(settings, data[settings.dataset]).train(defense, norm, 0), settings, norm)
            for settings in protocol.settings
            for norm in protocol.norms
            for defense in protocol.defenses
        )
        return list({task.id: task for subject in subjects for task in subject.task.lineage()}.values())

    work = request.prepare(models)
    if name and len(subjects) > 1:
        raise BenchError(f"--name {name} is of one model under one norm, got {len(subjects)}: leave it out")
    work = replace(work, todo=[task for task in work.tasks if not is_done(request.out, task)])
    context = request.context(choose_device(request.device))

    def publish(out: Path, protocol: "Protocol", data: "dict[str, Located]") -> "list[Table]":
        measured.extend(
            _measured(subject, context, families, rounds, out / _FOLDER, name or subject.name)
            for subject in subjects
            if (out / subject.task.path).is_file()
        )
        return [_table(told) for told in measured]

    with redirect_stdout(sys.stderr) if as_json else nullcontext():  # a training's progress is no JSON
        finished = run(work, context, publish, workers=1, live=sys.stdout.isatty())
    for title, story in finished.failures.items():
        raise BenchError(f"{title} failed: {last_line(story)}")
    if as_json:
        print(json.dumps(measured, indent=1))
        return
    for table in finished.tables:
        print(f"\n{to_text(table)}")


def _measured(
    subject: Subject, context: "Context", families: Sequence[str], rounds: int, folder: Path, name: str
) -> dict[str, Any]:
    """Measure on one model, write the figures, and return them with the circumstances."""
    import torch

    from robustness_bench.benchmark.context import environment
    from robustness_bench.benchmark.data.base import subset
    from robustness_bench.benchmark.files import write_atomic
    from robustness_bench.benchmark.measure.peers import Figures, measure, problem_of
    from robustness_bench.benchmark.measure.verification import natural_images
    from robustness_bench.benchmark.report.rendering.csv import csv_text
    from robustness_bench.benchmark.store.models import load_model

    task, settings, norm = subject
    torch.set_num_threads(context.threads)
    kept, eps = subset(task.data.test_images, settings.n_examples), settings.eps[norm]
    _, (_, x, y) = natural_images(kept, task.data, context.device)
    on = problem_of(load_model(task, context, fold=False), x, y, norm, eps)
    rows = measure(on, families, rounds, lambda text: print(f"  {text}", file=sys.stderr))
    circumstances = {
        "command": shlex.join(["bench", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": task.id,
        "title": task.title,
        "images": len(y),
        "norm": norm,
        "eps": eps,
        "rounds": rounds,
        "environment": environment(context.device),
    }
    told = {**circumstances, "rows": [row._asdict() for row in rows]}
    write_atomic(folder / f"{name}.json", (json.dumps(told, indent=1) + "\n").encode())
    write_atomic(folder / f"{name}.csv", csv_text(Figures._fields, rows).encode())
    print(f"figures of {task.title} are in {folder}/{name}.json and .csv", file=sys.stderr)
    return told


def _table(told: dict[str, Any]) -> "Table":
    from robustness_bench.benchmark.measure.peers import Figures
    from robustness_bench.benchmark.report.rendering.table import Cell, Column, Row, Table
    from robustness_bench.benchmark.report.rendering.wording import NORM_SYMBOLS

    def shown(value: float | None, decimals: int) -> Cell:
        return Cell(text="" if value is None else f"{value:.{decimals}f}")

    def cells(row: "Figures") -> tuple[Cell, ...]:
        return (
            shown(row.seconds, 2),
            *(shown(ratio, 3) for ratio in (row.ratio, row.ratio_min, row.ratio_max)),
            shown(row.accuracy, 1),
            shown(row.distance, 4),
            *(shown(passes, 1) for passes in (row.forwards, row.backwards)),
            shown(row.memory, 0),
        )

    headings = ["s", "ratio", "least", "most", "accuracy", "distance", "forwards", "backwards", "MB"]
    group = f"{NORM_SYMBOLS[told['norm']]} (ε = {told['eps']:.4g})"
    return Table(
        name="perf",
        title=told["title"],
        caption=f"Medians of {told['rounds']} turns on {told['images']} images; s: of processor time on a "
        "CPU; ratio: to the first line of the group in the same round, least and most of all rounds; "
        "distance: median of the images classified correctly; passes per image; MB: peak beyond what was in "
        "use before.",
        measure="cost",
        columns=tuple(Column(group=group, label=label) for label in headings),
        rows=tuple(
            Row(group=row.family, label=f"{row.family}: {row.name}", cells=cells(row))
            for row in (Figures(**values) for values in told["rows"])
        ),
        heading="What",
    )
