"""The options `bench run` and `bench plan` share, and the protocol they spell."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmark.errors import BenchError

if TYPE_CHECKING:
    from benchmark.running import Work

Names = list[str] | None
Defenses = Annotated[
    Names, typer.Option("--defense", help="Defense, repeated or comma-separated (bench list defenses).")
]
Datasets = Annotated[Names, typer.Option("--dataset", help="Data set (bench list datasets).")]
Norms = Annotated[Names, typer.Option("--norm", help="linf or l2; both unless given.")]
Threats = Annotated[Names, typer.Option("--threat", help="white or black; both unless given.")]
Attacks = Annotated[
    Names, typer.Option("--attacks", help="Attacks, each under the norms it knows (bench list attacks).")
]
AttackSet = Annotated[
    str | None,
    typer.Option("--set", help="The attacks' parameters: strict or paper (bench list attacks -v)."),
]
Curve = Annotated[
    Names, typer.Option("--curve", help="Attacks that also run at other ε, for robustness curves.")
]
Seeds = Annotated[int | None, typer.Option("--seeds", help="Training seeds 0 … N-1.")]
Examples = Annotated[int | None, typer.Option("--n-examples", help="Test images; 0 = all.")]
Epochs = Annotated[int | None, typer.Option("--epochs", help="Of every training, MI estimators included.")]
TrainLimit = Annotated[int | None, typer.Option("--train-limit", help="Training images; 0 = all.")]
Width = Annotated[int | None, typer.Option("--width", help="Channels of the models' first stage.")]
EpsLinf = Annotated[float | None, typer.Option("--eps-linf", help="L∞ budget in pixels of [0, 1].")]
EpsL2 = Annotated[float | None, typer.Option("--eps-l2", help="L2 budget in pixels of [0, 1].")]
Config = Annotated[Path | None, typer.Option("--config", help="TOML protocol; the flags here override it.")]
Out = Annotated[Path, typer.Option("--out", help="Folder of the results.")]
DataDir = Annotated[
    Path, typer.Option("--data-dir", envvar="BENCH_DATA", help="Folder of the data set's files.")
]
Download = Annotated[bool, typer.Option("--download", help="Fetch a data set that is missing.")]
BatchSize = Annotated[str, typer.Option("--batch-size", help="Images at once in evaluation, or auto.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
Workers = Annotated[
    int, typer.Option("--workers", help="Processes; 0 = one per GPU, or one per CPU core up to 4.")
]


def overrides(
    *,
    defense: Names,
    dataset: Names,
    norm: Names,
    threat: Names,
    attacks: Names,
    attack_set: str | None,
    curve: Names,
    seeds: int | None,
    n_examples: int | None,
    epochs: int | None,
    train_limit: int | None,
    width: int | None,
    eps_linf: float | None,
    eps_l2: float | None,
) -> dict[str, Any]:
    """The flags that were given, as a protocol's keys."""
    from attacks.registry import NORMS
    from benchmark.protocol import attacks_by_norm

    tree: dict[str, Any] = {}
    lists = {"defenses": defense, "datasets": dataset, "norms": norm, "threats": threat}
    tree |= {key: _split(value) for key, value in lists.items() if value}
    numbers = {"seeds": seeds, "n_examples": n_examples}
    tree |= {key: value for key, value in numbers.items() if value is not None}
    sections = {
        ("training", "epochs"): epochs,
        ("estimators", "epochs"): epochs,
        ("training", "train_limit"): train_limit,
        ("model", "width"): width,
        ("eps", "linf"): _budget(eps_linf),
        ("eps", "l2"): _budget(eps_l2),
    }
    for (section, key), value in sections.items():
        if value is not None:
            tree.setdefault(section, {})[key] = value
    if attack_set is not None:
        tree["attack_set"] = attack_set
    if curve:
        tree["curve"] = {"attacks": _split(curve)}
    if attacks:
        tree["attacks"] = attacks_by_norm(_split(attacks), tree.get("norms", list(NORMS)))
    return tree


def batch_size(text: str) -> int:
    """0 for auto."""
    if text == "auto":
        return 0
    if not text.isdigit() or int(text) < 1:
        raise BenchError(f"--batch-size must be a positive number or auto, got {text!r}")
    return int(text)


def _budget(eps: float | None) -> float | None:
    if eps is not None and not eps > 0:
        raise BenchError(f"ε must be positive, got {eps}")
    return eps


def _split(values: list[str]) -> list[str]:
    return [name.strip() for value in values for name in value.split(",") if name.strip()]


def check_workers(workers: int) -> None:
    """Raise BenchError for a negative number."""
    if workers < 0:
        raise BenchError(f"--workers must be 0 (automatic) or more, got {workers}")


def show_plan(work: "Work", device: str, workers: int) -> None:
    """Print every open task with its estimated time, and the sum over all workers."""
    from benchmark.context import Context
    from benchmark.engines.local import local_contexts
    from benchmark.estimates import measure, predicted_seconds
    from benchmark.progress import duration

    print(f"{work.cells} cells, {work.cells - work.open_cells} done, {work.open_cells} to do")
    if not work.todo:
        return
    context = Context(out=Path(), device=device, batch_size=0, threads=1)
    contexts = local_contexts(context, workers, work.chains)
    speeds = measure(work.todo, contexts[0].device)
    seconds = {task.id: predicted_seconds(task, speeds) for task in work.todo}
    for task in work.todo:
        print(f"  {duration(seconds[task.id]):>12}  {task.title}")
    total = duration(sum(seconds.values()) / len(contexts))
    print(
        f"{len(work.todo)} tasks, about {total} with {len(contexts)} workers on {device} "
        "(from a timed batch, half of the samples assumed to survive)"
    )
