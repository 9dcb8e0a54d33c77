"""The options `bench run`, `plan`, `estimate-mi` and `figure` share, and the protocol they give."""

import functools
import inspect
import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand

from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.mirror import local_folder, mirrored

if TYPE_CHECKING:
    from robustness_bench.benchmark.context import Context
    from robustness_bench.benchmark.plan.protocol import Protocol
    from robustness_bench.benchmark.plan.tasks import Task
    from robustness_bench.benchmark.run.engines.base import Engine
    from robustness_bench.benchmark.run.work import Work

Names = list[str] | None
PANELS = (
    "What is evaluated",
    "Attacks",
    "Training",
    "Weights in place of training",
    "Files, and what is kept",
    "How it runs",
)
HOW = PANELS[-1]
_AS_KEYS = (
    *("seeds", "n_examples", "attack_set", "attack_precision", "schedule", "fit"),
    *("weights", "weights_input", "weights_entry", "network"),
)
"""Options that a protocol has keys of the same name for."""
Result = TypeVar("Result")


def _in(panel: str) -> Callable[..., Any]:
    """Return a maker of options of one panel: their flags, then what they are for."""

    def option(*flags_and_help: str, **more: Any) -> Any:
        *flags, text = flags_and_help
        return typer.Option(*flags, help=text, rich_help_panel=panel, **more)

    return option


_what, _attack, _training, _weights, _where, _how = map(_in, PANELS)


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
        Names, _what("--defense", "Defense, repeated or comma-separated (bench list defenses).")
    ] = None
    dataset: Annotated[Names, _what("--dataset", "Data set (bench list datasets).")] = None
    norm: Annotated[Names, _what("--norm", "linf or l2; default: both.")] = None
    threat: Annotated[Names, _what("--threat", "white or black; default: both.")] = None
    seeds: Annotated[int | None, _what("--seeds", "Training seeds 0 … N-1.")] = None
    n_examples: Annotated[int | None, _what("--n-examples", "Test images; 0 = all.")] = None
    eps_linf: Annotated[float | None, _what("--eps-linf", "L∞ budget in pixels of [0, 1].")] = None
    eps_l2: Annotated[float | None, _what("--eps-l2", "L2 budget in pixels of [0, 1].")] = None
    plugin: Annotated[
        list[Path] | None,
        _what(
            "--plugin",
            "A .py file of your own: a defense (run unless --defense says), data set, network or detector.",
        ),
    ] = None
    config: Annotated[Path | None, _what("--config", "TOML protocol; options override it.")] = None
    attacks: Annotated[
        Names,
        _attack("--attacks", "--attack", "Attacks, each under the norms it supports (bench list attacks)."),
    ] = None
    attack_set: Annotated[
        str | None, _attack("--set", "The attacks' parameters: strict or paper (bench list attacks -v).")
    ] = None
    attack_precision: Annotated[
        str | None,
        _attack("--attack-precision", "Of attacks' gradients: float32, or bf16 for those that can (faster)."),
    ] = None
    curve: Annotated[Names, _attack("--curve", "Attacks to run also at other ε, for robustness curves.")] = (
        None
    )
    kappa: Annotated[
        Names, _attack("--kappa", "Confidences κ of the attacks on detectors, comma-separated.")
    ] = None
    schedule: Annotated[
        str | None, _training("--schedule", "How models are trained (bench list schedules).")
    ] = None
    epochs: Annotated[int | None, _training("--epochs", "Of every training, also of MI estimators.")] = None
    train_limit: Annotated[int | None, _training("--train-limit", "Training images; 0 = all.")] = None
    model: Annotated[str | None, _training("--model", "Network (bench list models).")] = None
    width: Annotated[int | None, _training("--width", "Channels of the models' first stage.")] = None
    surrogate: Annotated[
        Names,
        _training(
            "--surrogate",
            "What black-box images are crafted on: NETWORK[:WIDTH[:SEED]]; several: on their mean logits.",
        ),
    ] = None
    processes: Annotated[
        int, _training("--processes", "Processes, one per GPU, that train one model together.")
    ] = 1
    weights: Annotated[
        str | None,
        _weights(
            "--weights",
            "Use these weights instead of training: a file, a folder of bench export --hf, "
            "hf:ORG/NAME[@REVISION][:FILE], timm:NAME[@FILE], torchvision:NAME[@WEIGHTS], robustbench:NAME.",
        ),
    ] = None
    weights_input: Annotated[
        str | None,
        _weights(
            "--weights-input",
            "Input of the weights' network: plain, normalised, imagenet, half, shifted, bytes, per-image; "
            "then +bgr, +pool, +stride-2, +stride-2-pool. Default: found on training images.",
        ),
    ] = None
    weights_plain: Annotated[bool, _weights("--weights-plain", "Short for --weights-input plain.")] = False
    weights_entry: Annotated[
        str | None, _weights("--weights-entry", "Which set of weights, if the file has several.")
    ] = None
    weights_accept_low: Annotated[
        bool,
        _weights("--weights-accept-low", "Accept the weights whatever their accuracy on training images."),
    ] = False
    network: Annotated[
        str | None,
        _weights("--network", "A .py file with the weights' network: build(classes, channels, size)."),
    ] = None
    trust_code: Annotated[
        bool, _weights("--trust-code", "Run the code of --network, in a confined process.")
    ] = False
    model_dir: Annotated[Path, _weights("--model-dir", "RobustBench's cache of models.")] = Path("models")
    out: Annotated[
        Path, _where("--out", "Folder of the results, or its URL: s3://BUCKET/RUN.", parser=local_folder)
    ] = Path("results")
    data_dir: Annotated[
        Path, _where("--data-dir", "Folder of the data set's files.", envvar="BENCH_DATA")
    ] = Path("data")
    fit: Annotated[
        str | None,
        _where(
            "--fit", "Make the images of --dataset folder squares of one size: crop:32, pad:32 or stretch:32."
        ),
    ] = None
    download: Annotated[bool, _where("--download", "Download a missing data set.")] = False
    gallery: Annotated[
        int, _where("--gallery", "Images of every cell (first seed) to keep for the leaderboard.")
    ] = 8
    keep_examples: Annotated[
        bool, _where("--keep-examples", "Keep every image that fools a model, for bench verify.")
    ] = False
    batch_size: Annotated[str, _how("--batch-size", "Batch size in evaluation, or auto.")] = "auto"
    device: Annotated[str, _how("--device", "auto, cpu or cuda.")] = "auto"
    workers: Annotated[int, _how("--workers", "Tasks at once; 0 = one per GPU, or per CPU core up to 4.")] = 0
    shard_size: Annotated[
        int, _how("--shard-size", "Images of a cell that a worker attacks at a time; 0 = automatic: 1024.")
    ] = 0
    engine: Annotated[str, _how("--engine", "Where tasks run: local, ray or slurm.")] = "local"
    address: Annotated[str, _how("--address", "HOST:PORT of a Ray cluster; default: this machine's.")] = ""
    engine_option: Annotated[
        list[str] | None,
        _how("--engine-option", "KEY=VALUE, what each worker asks a cluster for: num_gpus=1, mem_gb=16, …"),
    ] = None
    tracker: Annotated[
        list[str] | None,
        _how(
            "--tracker",
            "Also show losses, held-out accuracies and cells in tensorboard, wandb, mlflow or trackio: "
            "NAME[:KEY=VALUE,…], repeated.",
        ),
    ] = None
    no_diagnosis: Annotated[
        bool,
        _how(
            "--no-diagnosis",
            "Skip the checks for hidden gradients: rows are shown as not diagnosed, and not ranked.",
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
        given = {"threat": self.threat, "attacks": self.attacks, "set": self.attack_set, "curve": self.curve}
        given |= {"surrogate": self.surrogate, "attack-precision": self.attack_precision}
        if self.surrogate and protocol.defenses and "black" not in protocol.threats:
            raise BenchError("--surrogate is for the black box: add --threat black")
        if unused := [f"--{name}" for name, value in given.items() if value and not protocol.defenses]:
            raise BenchError(
                f"{', '.join(unused)} is for defenses; {', '.join(protocol.detectors)} faces every attack "
                "of [detection] in the --config file at every --kappa"
            )

    def _check_plugins(self, protocol: "Protocol") -> None:
        """Reject a plugin file whose data set, network or detector this protocol does not use."""
        from robustness_bench.attacks.plugins import file_points

        networks = {each.name for s in protocol.settings for each in (s.model, s.detection.model)}
        surrogates = {each.model for s in protocol.settings for each in s.surrogate.members(s.model.width)}
        used = {
            "--dataset": ("bench.datasets", {settings.dataset for settings in protocol.settings}),
            "--model": ("bench.models", networks | surrogates),
            "--defense": ("bench.detectors", set(protocol.detectors)),
        }
        given = {str(path.resolve()): path for path in self.plugin or ()}
        for option, (group, names) in used.items():
            for point in file_points(group):
                if point.value in given and point.name not in names:
                    raise BenchError(
                        f"--plugin {given[point.value]} offers {point.name}, which nothing here uses: add "
                        f"{option} {point.name}, or leave the plugin out"
                    )

    def prepare(self, make: "Callable[..., list[Task]] | None" = None) -> "Work":
        """Return the requested work, minus what the store already has."""
        from robustness_bench.benchmark.plan.detectors import make_whole_plan
        from robustness_bench.benchmark.run.work import prepare

        self._check()
        protocol = self.protocol()
        self._check_plugins(protocol)
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
            processes=self.processes,
            plugins=tuple(path.resolve() for path in self.plugin or ()),
            model_dir=self.model_dir,
            gallery=self.gallery,
            keep_examples=self.keep_examples,
            trust_code=self.trust_code,
            accept_low=self.weights_accept_low,
            trackers=tuple(self.tracker or ()),
            command=typed(),
        )

    def kappas(self) -> list[float]:
        """Return the confidences that were named."""
        try:
            return [float(each) for each in split(self.kappa or [])]
        except ValueError:
            raise BenchError(f"--kappa must be numbers, got {', '.join(self.kappa or ())}") from None

    def chosen_engine(self) -> "Engine":
        """Return where tasks run."""
        from robustness_bench.benchmark.run.engines.choice import choose_engine

        return choose_engine(self.engine, self.address, self.engine_option or [], self.out)

    def _check(self) -> None:
        from robustness_bench.benchmark.run.watching.trackers import parsed

        for text in self.tracker or ():
            parsed(text)
        _batch_size(self.batch_size)
        for name, meaning in (("workers", "automatic"), ("shard_size", "automatic"), ("gallery", "none")):
            if (value := getattr(self, name)) < 0:
                flag = name.replace("_", "-")
                raise BenchError(f"--{flag} must be 0 ({meaning}) or more, got {value}")
        if self.processes < 1:
            raise BenchError(f"--processes must be at least 1, got {self.processes}")

    def _overrides(self, plugins: list[str]) -> dict[str, Any]:
        """Return the given options as a protocol's keys."""
        from robustness_bench.attacks.registry import NORMS
        from robustness_bench.benchmark.networks.hub import described
        from robustness_bench.benchmark.plan.protocol import attacks_by_norm

        exported = described(self.weights) if self.weights else {}
        lists = {"datasets": self.dataset, "norms": self.norm, "threats": self.threat}
        lists["defenses"] = self.defense or plugins
        tree: dict[str, Any] = {key: split(value) for key, value in lists.items() if value}
        tree |= _given({key: getattr(self, key) for key in _AS_KEYS})
        tree |= {"weights_plain": True} if self.weights_plain else {}
        tree |= {"diagnosis": False} if self.no_diagnosis else {}
        of_models: dict[str, dict[str, Any]] = {
            "training": {"epochs": self.epochs, "train_limit": self.train_limit},
            "model": exported | _given({"name": self.model, "width": self.width}),
        }
        sections: dict[str, dict[str, Any]] = {
            **of_models,
            "estimators": {"epochs": self.epochs},
            "detection": {
                "part_epochs": self.epochs,
                "n_examples": self.n_examples,
                "adaptive_examples": self.n_examples,
                "confidences": self.kappas() if self.kappa else None,
                **{section: _given(keys) or None for section, keys in of_models.items()},
            },
            "eps": {"linf": _budget(self.eps_linf), "l2": _budget(self.eps_l2)},
            "curve": {"attacks": split(self.curve) if self.curve else None},
            "surrogate": {"models": split(self.surrogate) if self.surrogate else None},
        }
        tree |= {section: told for section, keys in sections.items() if (told := _given(keys))}
        if self.attacks:
            tree["attacks"] = attacks_by_norm(split(self.attacks), tree.get("norms", list(NORMS)))
        return tree


def _given(keys: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in keys.items() if value is not None}


def takes_request(verb: Callable[..., Result]) -> Callable[..., Result]:
    """Replace a verb's first parameter, a ``Request``, by its fields, so that typer sees them as options."""

    @functools.wraps(verb)
    def verb_with_options(**values: Any) -> Result:
        request = Request(**{each.name: values.pop(each.name) for each in fields(Request)})
        with mirrored(request.out):
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


def show_plan(work: "Work", request: Request, *, as_json: bool = False) -> None:
    """Print every open task and the total, with the least and the most time they may take.

    Args:
        as_json: print cells, done, to_do, and the open tasks with that time in seconds.
    """
    from robustness_bench.benchmark.context import choose_device
    from robustness_bench.benchmark.plan.cost import measure, predicted_seconds, predicted_total
    from robustness_bench.benchmark.report.rendering.wording import count
    from robustness_bench.benchmark.run.engines.local import Local
    from robustness_bench.benchmark.run.watching.progress import between

    engine = request.chosen_engine()
    told = {"cells": work.cells, "done": work.cells - work.open_cells, "to_do": work.open_cells}
    if not as_json:
        print("{cells} cells, {done} done, {to_do} to do".format_map(told))
    if not work.todo:
        if as_json:
            print(json.dumps({**told, "tasks": []}, indent=1))
        return
    context = request.context(engine.device(request.device))
    work = work.in_shards(request.shard_size, context)
    contexts = engine.seats(context, request.workers, work.chains)
    engine.close()
    here = choose_device(request.device)
    speeds = measure(work.todo, Local().seats(request.context(here), request.workers, work.chains)[0])
    seconds = {task.id: predicted_seconds(task, speeds) for task in work.todo}
    if as_json:
        tasks = [{"title": task.title, "seconds": seconds[task.id]._asdict()} for task in work.todo]
        print(json.dumps({**told, "tasks": tasks}, indent=1, ensure_ascii=False))
        return
    for task in work.todo:
        print(f"  {between(seconds[task.id]):>22}  {task.title}")
    total = between(predicted_total(seconds, work.todo, len(contexts)))
    print(
        f"{len(work.todo)} tasks, {total} with {count(len(contexts), 'worker')} on {here} (from a timed "
        "batch here; the fewer images withstand an attack, the less time it takes: from none to all of them)"
    )
