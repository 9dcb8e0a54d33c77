"""The options `bench run`, `plan`, `estimate-mi` and `figure` share, and the protocol they give."""

import functools
import inspect
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand

from robustness_bench.benchmark.errors import BenchError

if TYPE_CHECKING:
    from robustness_bench.benchmark.context import Context
    from robustness_bench.benchmark.plan.protocol import Protocol
    from robustness_bench.benchmark.plan.tasks import Task
    from robustness_bench.benchmark.run.work import Work

Names = list[str] | None
WHAT, ATTACKS, TRAINING, WEIGHTS, WHERE, HOW = PANELS = (
    "What is evaluated",
    "Attacks",
    "Training",
    "Weights in place of training",
    "Files, and what is kept",
    "How it runs",
)
Result = TypeVar("Result")


class PanelCommand(TyperCommand):
    """A command whose help groups options under the headings of ``PANELS``, the verb's own last."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {panel: [] for panel in ("Arguments", *PANELS, "Options")}
        for parameter in self.get_params(ctx):
            if line := parameter.get_help_record(ctx):
                argument = parameter.param_type_name == "argument"
                panel = "Arguments" if argument else getattr(parameter, "rich_help_panel", None)
                panels[panel or "Options"].append(line)
        for panel, lines in panels.items():
            if lines:
                with formatter.section(panel):
                    formatter.write_dl(lines)


@dataclass(frozen=True, kw_only=True)
class Request:
    """The user's options; each field is an option of every verb that takes a request."""

    defense: Annotated[
        Names,
        typer.Option(
            "--defense",
            help="Defense, repeated or comma-separated (bench list defenses).",
            rich_help_panel=WHAT,
        ),
    ] = None
    dataset: Annotated[
        Names, typer.Option("--dataset", help="Data set (bench list datasets).", rich_help_panel=WHAT)
    ] = None
    norm: Annotated[
        Names, typer.Option("--norm", help="linf or l2; default: both.", rich_help_panel=WHAT)
    ] = None
    threat: Annotated[
        Names, typer.Option("--threat", help="white or black; default: both.", rich_help_panel=WHAT)
    ] = None
    seeds: Annotated[
        int | None, typer.Option("--seeds", help="Training seeds 0 … N-1.", rich_help_panel=WHAT)
    ] = None
    n_examples: Annotated[
        int | None, typer.Option("--n-examples", help="Test images; 0 = all.", rich_help_panel=WHAT)
    ] = None
    eps_linf: Annotated[
        float | None, typer.Option("--eps-linf", help="L∞ budget in pixels of [0, 1].", rich_help_panel=WHAT)
    ] = None
    eps_l2: Annotated[
        float | None, typer.Option("--eps-l2", help="L2 budget in pixels of [0, 1].", rich_help_panel=WHAT)
    ] = None
    plugin: Annotated[
        list[Path] | None,
        typer.Option(
            "--plugin",
            help="A .py file of your own: a defense (run unless --defense says), data set, network or "
            "detector.",
            rich_help_panel=WHAT,
        ),
    ] = None
    config: Annotated[
        Path | None,
        typer.Option("--config", help="TOML protocol; options override it.", rich_help_panel=WHAT),
    ] = None
    attacks: Annotated[
        Names,
        typer.Option(
            "--attacks",
            "--attack",
            help="Attacks, each under the norms it supports (bench list attacks).",
            rich_help_panel=ATTACKS,
        ),
    ] = None
    attack_set: Annotated[
        str | None,
        typer.Option(
            "--set",
            help="The attacks' parameters: strict or paper (bench list attacks -v).",
            rich_help_panel=ATTACKS,
        ),
    ] = None
    curve: Annotated[
        Names,
        typer.Option(
            "--curve",
            help="Attacks to run also at other ε, for robustness curves.",
            rich_help_panel=ATTACKS,
        ),
    ] = None
    kappa: Annotated[
        Names,
        typer.Option(
            "--kappa",
            help="Confidences κ of the attacks on detectors, comma-separated.",
            rich_help_panel=ATTACKS,
        ),
    ] = None
    schedule: Annotated[
        str | None,
        typer.Option(
            "--schedule",
            help="How models are trained: namid-paper, fast or digits.",
            rich_help_panel=TRAINING,
        ),
    ] = None
    epochs: Annotated[
        int | None,
        typer.Option("--epochs", help="Of every training, also of MI estimators.", rich_help_panel=TRAINING),
    ] = None
    train_limit: Annotated[
        int | None, typer.Option("--train-limit", help="Training images; 0 = all.", rich_help_panel=TRAINING)
    ] = None
    width: Annotated[
        int | None,
        typer.Option("--width", help="Channels of the models' first stage.", rich_help_panel=TRAINING),
    ] = None
    processes: Annotated[
        int,
        typer.Option(
            "--processes",
            help="Processes, one per GPU, that train one model together.",
            rich_help_panel=TRAINING,
        ),
    ] = 1
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            help="Use these weights instead of training: a file, or robustbench:NAME.",
            rich_help_panel=WEIGHTS,
        ),
    ] = None
    weights_input: Annotated[
        str | None,
        typer.Option(
            "--weights-input",
            help="Input of the weights' network: plain, normalised, imagenet, half, shifted, bytes, "
            "per-image; then +bgr, +pool, +stride-2, +stride-2-pool. Default: found on training images.",
            rich_help_panel=WEIGHTS,
        ),
    ] = None
    weights_plain: Annotated[
        bool,
        typer.Option("--weights-plain", help="Short for --weights-input plain.", rich_help_panel=WEIGHTS),
    ] = False
    weights_entry: Annotated[
        str | None,
        typer.Option(
            "--weights-entry", help="Which set of weights, if the file has several.", rich_help_panel=WEIGHTS
        ),
    ] = None
    weights_accept_low: Annotated[
        bool,
        typer.Option(
            "--weights-accept-low",
            help="Accept the weights whatever their accuracy on training images.",
            rich_help_panel=WEIGHTS,
        ),
    ] = False
    network: Annotated[
        str | None,
        typer.Option(
            "--network",
            help="A .py file with the weights' network: build(classes, channels, size).",
            rich_help_panel=WEIGHTS,
        ),
    ] = None
    trust_code: Annotated[
        bool,
        typer.Option(
            "--trust-code", help="Run the code of --network, in a confined process.", rich_help_panel=WEIGHTS
        ),
    ] = False
    model_dir: Annotated[
        Path, typer.Option("--model-dir", help="RobustBench's cache of models.", rich_help_panel=WEIGHTS)
    ] = Path("models")
    out: Annotated[Path, typer.Option("--out", help="Folder of the results.", rich_help_panel=WHERE)] = Path(
        "results"
    )
    data_dir: Annotated[
        Path,
        typer.Option(
            "--data-dir", envvar="BENCH_DATA", help="Folder of the data set's files.", rich_help_panel=WHERE
        ),
    ] = Path("data")
    fit: Annotated[
        str | None,
        typer.Option(
            "--fit",
            help="Make the images of --dataset folder squares of one size: crop:32, pad:32 or stretch:32.",
            rich_help_panel=WHERE,
        ),
    ] = None
    download: Annotated[
        bool, typer.Option("--download", help="Download a missing data set.", rich_help_panel=WHERE)
    ] = False
    gallery: Annotated[
        int,
        typer.Option(
            "--gallery",
            help="Images of every cell (first seed) to keep for the leaderboard.",
            rich_help_panel=WHERE,
        ),
    ] = 8
    keep_examples: Annotated[
        bool,
        typer.Option(
            "--keep-examples",
            help="Keep every image that fools a model, for bench verify.",
            rich_help_panel=WHERE,
        ),
    ] = False
    batch_size: Annotated[
        str, typer.Option("--batch-size", help="Batch size in evaluation, or auto.", rich_help_panel=HOW)
    ] = "auto"
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.", rich_help_panel=HOW)] = "auto"
    workers: Annotated[
        int,
        typer.Option(
            "--workers", help="Tasks at once; 0 = one per GPU, or per CPU core up to 4.", rich_help_panel=HOW
        ),
    ] = 0
    no_diagnosis: Annotated[
        bool,
        typer.Option(
            "--no-diagnosis",
            help="Skip the checks for hidden gradients: rows are shown as not diagnosed, and not ranked.",
            rich_help_panel=HOW,
        ),
    ] = False

    def protocol(self) -> "Protocol":
        """Return the requested protocol, checked; plugins are loaded first."""
        from robustness_bench.benchmark.plan.protocol import load_protocol
        from robustness_bench.defenses.plugins import load_plugin

        plugins = [name for path in self.plugin or () if (name := load_plugin(path))]
        protocol = load_protocol(self.config, self._overrides(plugins))
        self._check_detectors(protocol)
        return protocol

    def _check_detectors(self, protocol: "Protocol") -> None:
        """Reject options that this protocol does not use."""
        if self.kappa and not protocol.detectors:
            raise BenchError("--kappa is for attacks on detectors: name one (bench list detectors)")
        given = {
            "--threat": self.threat,
            "--attacks": self.attacks,
            "--set": self.attack_set,
            "--curve": self.curve,
        }
        if unused := [flag for flag, value in given.items() if value and not protocol.defenses]:
            raise BenchError(
                f"{', '.join(unused)} is for defenses; {', '.join(protocol.detectors)} faces every attack "
                "of [detection] in the --config file at every --kappa"
            )

    def prepare(self, make: "Callable[..., list[Task]] | None" = None) -> "Work":
        """Return the requested work, minus what the store already has."""
        from robustness_bench.benchmark.plan.detectors import make_whole_plan
        from robustness_bench.benchmark.run.work import prepare

        self._check()
        protocol = self.protocol()
        return prepare(
            protocol, self.out, self.data_dir, download=self.download, make=make or make_whole_plan
        )

    def context(self, device: str) -> "Context":
        """Return where and how the work is run."""
        from robustness_bench.benchmark.context import Context

        return Context(
            out=self.out,
            device=device,
            batch_size=_batch_size(self.batch_size),
            threads=1,
            processes=self.processes,
            plugins=tuple(path.resolve() for path in self.plugin or ()),
            model_dir=self.model_dir,
            gallery=self.gallery,
            keep_examples=self.keep_examples,
            trust_code=self.trust_code,
            accept_low=self.weights_accept_low,
            command=typed(),
        )

    def _check(self) -> None:
        _batch_size(self.batch_size)
        if self.workers < 0:
            raise BenchError(f"--workers must be 0 (automatic) or more, got {self.workers}")
        if self.gallery < 0:
            raise BenchError(f"--gallery must be 0 (none) or more, got {self.gallery}")
        if self.processes < 1:
            raise BenchError(f"--processes must be at least 1, got {self.processes}")

    def _overrides(self, plugins: list[str]) -> dict[str, Any]:
        """Return the given options as a protocol's keys."""
        from robustness_bench.attacks.registry import NORMS
        from robustness_bench.benchmark.plan.protocol import attacks_by_norm

        tree: dict[str, Any] = {}
        defenses = self.defense or plugins
        lists = {"defenses": defenses, "datasets": self.dataset, "norms": self.norm, "threats": self.threat}
        tree |= {key: split(value) for key, value in lists.items() if value}
        given = {
            "seeds": self.seeds,
            "n_examples": self.n_examples,
            "attack_set": self.attack_set,
            "schedule": self.schedule,
            "weights": self.weights,
            "weights_input": self.weights_input,
            "weights_plain": self.weights_plain or None,
            "weights_entry": self.weights_entry,
            "network": self.network,
            "fit": self.fit,
            "diagnosis": False if self.no_diagnosis else None,
        }
        tree |= {key: value for key, value in given.items() if value is not None}
        sections = {
            ("training", "epochs"): self.epochs,
            ("estimators", "epochs"): self.epochs,
            ("detection", "part_epochs"): self.epochs,
            ("detection", "n_examples"): self.n_examples,
            ("detection", "adaptive_examples"): self.n_examples,
            ("detection", "confidences"): _confidences(self.kappa),
            ("training", "train_limit"): self.train_limit,
            ("model", "width"): self.width,
            ("eps", "linf"): _budget(self.eps_linf),
            ("eps", "l2"): _budget(self.eps_l2),
        }
        for (section, key), value in sections.items():
            if value is not None:
                tree.setdefault(section, {})[key] = value
        guarded = {
            "training": {"epochs": self.epochs, "train_limit": self.train_limit},
            "model": {"width": self.width},
        }
        for part, keys in guarded.items():
            if told := {key: value for key, value in keys.items() if value is not None}:
                tree.setdefault("detection", {})[part] = told
        if self.curve:
            tree["curve"] = {"attacks": split(self.curve)}
        if self.attacks:
            tree["attacks"] = attacks_by_norm(split(self.attacks), tree.get("norms", list(NORMS)))
        return tree


def takes_request(verb: Callable[..., Result]) -> Callable[..., Result]:
    """Replace a verb's first parameter, a ``Request``, by its fields, so that typer sees them as options."""

    @functools.wraps(verb)
    def verb_with_options(**values: Any) -> Result:
        request = Request(**{each.name: values.pop(each.name) for each in fields(Request)})
        return verb(request, **values)

    own = list(inspect.signature(verb).parameters.values())[1:]
    shared = [
        inspect.Parameter(
            each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=each.type
        )
        for each in fields(Request)
    ]
    own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    arguments = [*shared, *own]
    verb_with_options.__signature__ = inspect.Signature(arguments)  # type: ignore[attr-defined]
    verb_with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in arguments}
    del verb_with_options.__wrapped__
    return verb_with_options


def _batch_size(text: str) -> int:
    """Return the batch size, 0 for auto."""
    if text == "auto":
        return 0
    if not text.isdigit() or int(text) < 1:
        raise BenchError(f"--batch-size must be a positive number or auto, got {text!r}")
    return int(text)


def _confidences(given: Names) -> list[float] | None:
    try:
        return [float(each) for each in split(given)] if given else None
    except ValueError:
        raise BenchError(f"--kappa must be numbers, got {', '.join(given or ())}") from None


def _budget(eps: float | None) -> float | None:
    if eps is not None and not eps > 0:
        raise BenchError(f"ε must be positive, got {eps}")
    return eps


def split(values: list[str]) -> list[str]:
    """Split names that were repeated or separated by commas."""
    return [name.strip() for value in values for name in value.split(",") if name.strip()]


def typed() -> str:
    """Return the command line as it was typed; empty if a line of text cannot hold it."""
    command = shlex.join(["bench", *sys.argv[1:]])
    return command if command.isprintable() else ""


def show_plan(work: "Work", request: Request) -> None:
    """Print every open task and the total, with the least and the most time they may take."""
    from robustness_bench.benchmark.plan.cost import measure, predicted_seconds, predicted_total
    from robustness_bench.benchmark.report.rendering.wording import count
    from robustness_bench.benchmark.run.local import local_contexts
    from robustness_bench.benchmark.run.progress import between
    from robustness_bench.benchmark.run.work import choose_device

    device = choose_device(request.device)
    print(f"{work.cells} cells, {work.cells - work.open_cells} done, {work.open_cells} to do")
    if not work.todo:
        return
    contexts = local_contexts(request.context(device), request.workers, work.chains)
    speeds = measure(work.todo, contexts[0])
    seconds = {task.id: predicted_seconds(task, speeds) for task in work.todo}
    for task in work.todo:
        print(f"  {between(seconds[task.id]):>22}  {task.title}")
    total = between(predicted_total(seconds, work.todo, len(contexts)))
    print(
        f"{len(work.todo)} tasks, {total} with {count(len(contexts), 'worker')} on {device} (from a timed "
        "batch; the fewer images withstand an attack, the less time it takes: from none to all of them)"
    )
