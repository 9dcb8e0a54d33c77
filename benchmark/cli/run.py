"""`bench run`: train what is missing, attack, evaluate, and write the tables."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli import options


def run(
    defense: options.Defenses = None,
    dataset: options.Datasets = None,
    norm: options.Norms = None,
    threat: options.Threats = None,
    attacks: options.Attacks = None,
    attack_set: options.AttackSet = None,
    curve: options.Curve = None,
    seeds: options.Seeds = None,
    n_examples: options.Examples = None,
    epochs: options.Epochs = None,
    train_limit: options.TrainLimit = None,
    width: options.Width = None,
    eps_linf: options.EpsLinf = None,
    eps_l2: options.EpsL2 = None,
    config: options.Config = None,
    out: options.Out = Path("results"),
    data_dir: options.DataDir = Path("data"),
    download: options.Download = False,
    batch_size: options.BatchSize = "auto",
    device: options.Device = "auto",
    workers: options.Workers = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would run, and stop.")] = False,
) -> None:
    """Train what is missing, attack it, and write records, results.csv and tables.

    The same command again resumes where it stopped, or finds nothing to do; with more seeds, attacks
    or defenses only the new cells run.
    """
    from benchmark.context import Context
    from benchmark.protocol import load_protocol
    from benchmark.report.render import to_text
    from benchmark.running import choose_device, prepare
    from benchmark.running import run as run_work

    flags = options.overrides(
        defense=defense,
        dataset=dataset,
        norm=norm,
        threat=threat,
        attacks=attacks,
        attack_set=attack_set,
        curve=curve,
        seeds=seeds,
        n_examples=n_examples,
        epochs=epochs,
        train_limit=train_limit,
        width=width,
        eps_linf=eps_linf,
        eps_l2=eps_l2,
    )
    images = options.batch_size(batch_size)
    options.check_workers(workers)
    work = prepare(load_protocol(config, flags), out, data_dir, download=download)
    if dry_run:
        options.show_plan(work, choose_device(device), workers)
        return
    if work.todo:
        where = choose_device(device)
        print(f"{work.open_cells} of {work.cells} cells to do, {len(work.todo)} tasks on {where}")
    else:
        where = "cpu"
        print(f"nothing to do: all {work.cells} cells are done")
    context = Context(out=out, device=where, batch_size=images, threads=1)
    try:
        finished = run_work(work, context, workers=workers, live=sys.stdout.isatty())
    except KeyboardInterrupt:
        print("\nbench: interrupted; the same command goes on from here", file=sys.stderr)
        raise typer.Exit(130) from None
    for table in finished.tables:
        print(f"\n{to_text(table)}")
    print(f"records, results.csv and tables are in {out}/")
    if finished.failures:
        print(f"\n{len(finished.failures)} tasks failed:", file=sys.stderr)
        for title, story in finished.failures.items():
            print(f"  {title}: {story.strip().splitlines()[-1]}", file=sys.stderr)
        raise typer.Exit(1)
