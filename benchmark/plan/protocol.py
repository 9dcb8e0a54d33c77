"""What to run: a TOML file, overridden by options, checked before anything starts.

The built-in ``protocols/default.toml`` names every key and its default; an unknown key is an error.
"""

import dataclasses
import itertools
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from robustness_bench.attacks.registry import NORMS, SETS, attack_names, attack_presets
from robustness_bench.benchmark.data.base import DatasetInfo
from robustness_bench.benchmark.data.folder import FOLDER, parse_fit
from robustness_bench.benchmark.data.registry import dataset_named, dataset_names
from robustness_bench.benchmark.errors import BenchError, unknown
from robustness_bench.benchmark.networks import MODELS
from robustness_bench.defenses.detectors.registry import system_presets
from robustness_bench.defenses.registry import defense_presets

THREATS = ("white", "black")
ADAPTIVE = ("white", "grey")
OBJECTIVES = ("eq-5", "eq-4", "author", "standard")
_DEFAULT = Path(__file__).parents[1] / "protocols" / "default.toml"
_SCHEDULES = Path(__file__).parents[1] / "schedules"
_OF_WEIGHTS = ("weights_plain", "weights_input", "weights_entry")
_FULL = "namid-paper"  # the schedule that names every key

Tree = dict[str, Any]
Section = TypeVar("Section")


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a model is trained; all of it enters its id. Units, sources: ``schedules/namid-paper.toml``."""

    epochs: int
    batch_size: int
    train_limit: int
    holdout: float
    selection: str
    lr: float
    momentum: float
    weight_decay: float
    lr_schedule: str
    milestones: tuple[float, ...]
    augment: str
    attack_steps: int
    rel_step_size: float
    attack_start: str
    clip_norm: float
    ema: float
    precision: str

    def __post_init__(self) -> None:
        _at_least(1, epochs=self.epochs, attack_steps=self.attack_steps)
        _at_least(2, batch_size=self.batch_size)
        _at_least(0, train_limit=self.train_limit, clip_norm=self.clip_norm, momentum=self.momentum)
        _at_least(0, weight_decay=self.weight_decay)
        if self.train_limit == 1:
            raise BenchError("train-limit must be 0 (all) or at least 2, got 1: batch norm needs two images")
        _positive(lr=self.lr, rel_step_size=self.rel_step_size)
        _one_of("training.lr_schedule", self.lr_schedule, ("steps", "one-cycle"))
        _one_of("training.augment", self.augment, ("crop-flip", "crop", "none"))
        _one_of("training.selection", self.selection, ("last", "best"))
        _one_of("training.attack_start", self.attack_start, ("uniform", "near"))
        _one_of("training.precision", self.precision, ("float32", "bf16"))
        for name, share in (("holdout", self.holdout), ("ema", self.ema)):
            if not 0 <= share < 1:
                raise BenchError(f"training.{name} must be at least 0 and below 1, got {share}")
        if self.selection == "best" and not self.holdout:
            raise BenchError('training.selection "best" needs held-out images: training.holdout above 0')


@dataclass(frozen=True, kw_only=True)
class Estimators:
    """How the MI estimators are trained."""

    epochs: int
    batch_size: int
    lr: float
    milestones: tuple[float, ...]
    attack_steps: int
    units: int
    scores: str
    temperature: float
    bound: str
    objective: str
    floor: bool
    selection: str
    clip_norm: float

    def __post_init__(self) -> None:
        _at_least(1, epochs=self.epochs, units=self.units, attack_steps=self.attack_steps)
        _at_least(2, batch_size=self.batch_size)
        _at_least(0, clip_norm=self.clip_norm)
        _positive(lr=self.lr, **{"estimators.temperature": self.temperature})
        _one_of("estimators.selection", self.selection, ("last", "best"))
        _one_of("estimators.scores", self.scores, ("cosine", "dot"))
        _one_of("estimators.bound", self.bound, ("dv", "jsd", "infonce"))
        _one_of("estimators.objective", self.objective, OBJECTIVES)


@dataclass(frozen=True, kw_only=True)
class Model:
    """The defended architecture."""

    name: str
    width: int

    def __post_init__(self) -> None:
        _at_least(1, width=self.width)
        if self.name not in MODELS:
            raise unknown("model", self.name, MODELS)


@dataclass(frozen=True, kw_only=True)
class Surrogate:
    """The model that black-box attacks are crafted on; width 0 = the defended model's."""

    model: str
    width: int
    seed: int

    def __post_init__(self) -> None:
        _at_least(0, surrogate_seed=self.seed, surrogate_width=self.width)
        if self.model not in MODELS:
            raise unknown("model", self.model, MODELS)


@dataclass(frozen=True, kw_only=True)
class Detection:
    """What detectors guard, and the attacks on it. Units: ``protocols/default.toml``."""

    classifier: str
    """The defense whose model is the classifier."""
    model: Model
    training: Training
    attacks: tuple[str, ...]
    confidences: tuple[float, ...]
    n_examples: int
    parameters: dict[str, dict[str, Any]]
    """cw or ead -> parameters that override those of the strict set."""
    adaptive: tuple[str, ...]
    adaptive_examples: int
    adaptive_attack: dict[str, Any]
    """Identity of the adaptive attack."""
    part_epochs: int

    def __post_init__(self) -> None:
        _at_least(0, n_examples=self.n_examples, part_epochs=self.part_epochs)
        _at_least(1, adaptive_examples=self.adaptive_examples)
        if not self.confidences:
            raise BenchError("detection.confidences is empty: name at least one κ")
        _at_least(0, confidence=min(self.confidences))
        if self.classifier not in defense_presets():
            raise unknown("defense", self.classifier, defense_presets())
        for name in self.adaptive:
            _one_of("detection.adaptive", name, ADAPTIVE)
        for name in self.attacks:
            if name not in confident_attacks():
                raise unknown("attack on detectors", name, confident_attacks())


def confident_attacks() -> list[str]:
    """Return the attacks that have a confidence κ and no budget, as published: those used on detectors."""
    presets = [each for each in attack_presets("strict").values() if each.kind == "minimum-norm"]
    return [
        each.name
        for each in presets
        if "confidence" in each.parameters and "warm_steps" not in each.parameters
    ]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings for one data set."""

    dataset: str
    n_examples: int
    attack_set: str
    """The attacks' parameter set: strict or paper."""
    attacks: dict[str, tuple[str, ...]]
    """norm -> names"""
    curve: dict[str, tuple[str, ...]]
    """norm -> names of the attacks that also run at other budgets"""
    budgets: tuple[float, ...]
    """those budgets, in multiples of ``eps``"""
    eps: dict[str, float]
    """norm -> budget in pixels of [0, 1]"""
    model: Model
    surrogate: Surrogate
    schedule: str
    training: Training
    estimators: Estimators
    weights: str
    """A file, or robustbench:NAME, in place of training; empty: train"""
    weights_input: str
    """Input of a file's network (``networks.inputs.parse``); empty: found on training images"""
    weights_entry: str
    """Which of several sets of weights in a file; empty: the only one"""
    network: str
    """A .py file with the network of ``weights``, run confined; empty: ``model``"""
    fit: str
    """How the images of a folder are made squares of one size (``data.folder.Fit``); empty: they must be"""
    detection: Detection


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A checked request. Lists have no duplicates and are in the order of the registries."""

    defenses: tuple[str, ...]
    norms: tuple[str, ...]
    threats: tuple[str, ...]
    seeds: int
    settings: tuple[Settings, ...]
    """The settings, one per data set."""
    diagnosis: bool = True
    """Whether models are checked for signs of hidden gradients."""
    detectors: tuple[str, ...] = ()
    """Systems of detectors that were named among the defenses."""


def load_protocol(config: Path | Mapping[str, Any] | None = None, overrides: Tree | None = None) -> Protocol:
    """Return the built-in protocol, overridden by a file or a mapping, then by ``overrides`` (same keys).

    Raises:
        BenchError: unreadable file, unknown key or name, value out of range.
    """
    layers = [_read(_DEFAULT)]
    if config is not None:
        layers.append(_read(config) if isinstance(config, Path) else dict(config))
        where = str(config) if isinstance(config, Path) else "the protocol"
        _check_keys(layers[1], _merged(_schedule(_FULL), layers[0]), where)
    layers.append(overrides or {})
    base = _overlaid(layers)
    _check_lists(base)
    norms = _in_order(base["norms"], NORMS, "norm")
    settings = []
    for name in _in_order(base["datasets"], dataset_names(), "data set"):
        schedule = _overlaid(layers, name)["schedule"]
        recipes = [_schedule(_FULL), _schedule(schedule)]
        settings.append(_settings(name, _overlaid([*recipes, *layers], name), norms))
    defenses = _in_order(base["defenses"], [*defense_presets(), *system_presets()], "defense")
    return Protocol(
        defenses=tuple(name for name in defenses if name in defense_presets()),
        detectors=tuple(name for name in defenses if name in system_presets()),
        norms=norms,
        threats=_in_order(base["threats"], THREATS, "threat"),
        seeds=base["seeds"],
        diagnosis=base["diagnosis"],
        settings=tuple(settings),
    )


def schedules() -> list[str]:
    """Return the names of the built-in training schedules."""
    return sorted(path.stem for path in _SCHEDULES.glob("*.toml"))


def schedule_texts() -> dict[str, str]:
    """Return name -> the description in its file's first lines."""
    texts = {}
    for name in schedules():
        lines = (_SCHEDULES / f"{name}.toml").read_text(encoding="utf-8").splitlines()
        comment = itertools.takewhile(lambda line: line.startswith("#"), lines)
        texts[name] = " ".join(line.removeprefix("#").strip() for line in comment)
    return texts


def _schedule(name: str) -> Tree:
    if name not in schedules():
        raise unknown("schedule", name, schedules())
    return _read(_SCHEDULES / f"{name}.toml")


def _overlaid(layers: list[Tree], dataset: str = "") -> Tree:
    """Merge layers, later over earlier; within a layer, a data set's section over the general ones."""
    tree: Tree = {}
    for layer in layers:
        tree = _merged(tree, {key: value for key, value in layer.items() if key != "dataset"})
        tree = _merged(tree, layer.get("dataset", {}).get(dataset, {}))
    return tree


def _read(path: Path) -> Tree:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BenchError(f"cannot read --config {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BenchError(f"--config {path} is not TOML: {error}") from error


def _merged(base: Tree, layer: Mapping[str, Any]) -> Tree:
    merged = dict(base)
    for key, value in layer.items():
        nested = isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
        merged[key] = _merged(base[key], value) if nested else value
    return merged


def _check_keys(layer: Tree, template: Tree, where: str) -> None:
    """Check that every key and type of ``layer`` is the template's; [dataset.X] may hold any section."""
    for key, value in layer.items():
        if key == "dataset":
            for name, section in value.items():
                dataset_named(name)
                _check_keys(section, template, f"{where} [dataset.{name}]")
        elif key not in template:
            raise BenchError(f"{where}: {unknown('key', key, template)}")
        elif isinstance(template[key], dict):
            if not isinstance(value, dict):
                raise BenchError(f"{where}: {key} must be a table, got {value!r}")
            _check_keys(value, template[key], f"{where} [{key}]")
        else:
            _check_type(key, value, template[key], where)


def _check_type(key: str, value: Any, default: Any, where: str) -> None:
    if not _fits(value, type(default)):
        raise BenchError(f"{where}: {key} must be of type {type(default).__name__}, got {value!r}")
    if isinstance(default, list):
        kind = type(default[0]) if default else str
        for item in value:
            if not _fits(item, kind):
                raise BenchError(f"{where}: {key} must be a list of {kind.__name__}, got {item!r} in it")


def _fits(value: Any, expected: type) -> bool:
    return type(value) is expected or (expected is float and type(value) is int)


def _check_lists(tree: Tree) -> None:
    _at_least(1, seeds=tree["seeds"])
    if tree["fit"]:
        parse_fit(tree["fit"])  # or an error
        if FOLDER.info.name not in tree["datasets"]:
            raise BenchError(f"--fit {tree['fit']} is of a folder of images: --dataset {FOLDER.info.name}")
    for key in ("datasets", "defenses", "norms", "threats"):
        if not tree[key]:
            raise BenchError(f"{key} is empty: name at least one")
    if tree["weights"]:
        _check_weights(tree)
    elif unused := [f"--{key.replace('_', '-')}" for key in _OF_WEIGHTS if tree[key]]:
        raise BenchError(f"{', '.join(unused)} is for given weights: name their file with --weights")
    elif tree["network"]:
        raise BenchError(f"--network {tree['network']} is not trained here: name its --weights too")


def _check_weights(tree: Tree) -> None:
    """Check that given weights are for one model: one defense, one data set, one seed."""
    for key, flag in (("defenses", "--defense"), ("datasets", "--dataset")):
        if len(set(tree[key])) != 1:
            raise BenchError(f"--weights {tree['weights']} is one model: name its one {flag}")
    if tree["seeds"] != 1:
        raise BenchError(
            f"--weights {tree['weights']} is one model, got {tree['seeds']} seeds: run each file by itself"
        )


def _weights_input(tree: Tree) -> str:
    """Return the weights' input; ``weights_plain`` is short for "plain"."""
    given: str = tree["weights_input"]
    if tree["weights_plain"] and given not in ("", "plain"):
        raise BenchError(f"--weights-plain is --weights-input plain, got {given} too: leave one out")
    return "plain" if tree["weights_plain"] else given


def _in_order(names: Any, known: Any, kind: str) -> tuple[str, ...]:
    for name in names:
        if name not in known:
            raise unknown(kind, name, known)
    return tuple(name for name in known if name in names)


def _settings(name: str, tree: Tree, norms: tuple[str, ...]) -> Settings:
    info = dataset_named(name).info
    _at_least(0, n_examples=tree["n_examples"])
    eps = {norm: tree["eps"][norm] or info.eps(norm) for norm in NORMS}
    check_budgets(info, eps, tree["curve"]["budgets"] if tree["curve"]["attacks"] else ())
    attack_set = tree["attack_set"]
    _one_of("attack_set", attack_set, tuple(SETS))
    budgets = tuple(sorted(set(tree["curve"]["budgets"]) - {1.0}))
    _positive(**{"curve.budgets": min(budgets, default=1.0)})
    return Settings(
        dataset=name,
        n_examples=tree["n_examples"],
        attack_set=attack_set,
        attacks={norm: _attacks(norm, tree["attacks"][attack_set][norm], attack_set) for norm in norms},
        curve={norm: _curve(norm, tree["curve"]["attacks"], attack_set) for norm in norms},
        budgets=budgets,
        eps=eps,
        model=_section(Model, tree["model"]),
        surrogate=_section(Surrogate, tree["surrogate"]),
        schedule=tree["schedule"],
        weights=tree["weights"],
        weights_input=_weights_input(tree),
        weights_entry=tree["weights_entry"],
        network=tree["network"],
        fit=tree["fit"] if name == FOLDER.info.name else "",
        training=_section(Training, tree["training"]),
        estimators=_section(Estimators, tree["estimators"]),
        detection=_detection(tree),
    )


def check_budgets(info: DatasetInfo, eps: Mapping[str, float], factors: Sequence[float]) -> None:
    """Raise BenchError unless every ε, and those of curves, lie within the pixel box of such images."""
    for norm, value in eps.items():
        widest, furthest = info.widest(norm), max(factors, default=1.0)
        if not 0 < value <= widest:
            raise BenchError(f"ε must be positive and fit into the pixel box, got {value} for {norm}")
        if value * furthest > widest:
            raise BenchError(
                f"curve.budgets: {furthest} × ε = {value} does not fit into the pixel box for {norm}"
            )


def _detection(tree: Tree) -> Detection:
    section = tree["detection"]
    training = _section(Training, {**tree["training"], **section["training"]})
    model = _section(Model, section["model"])
    confidences = sorted(float(each) for each in set(section["confidences"]))
    attack = {"attack": "attacks.adaptive:AdaptiveDetection", **section["adaptive_attack"]}
    made = {"training": training, "model": model, "confidences": confidences, "adaptive_attack": attack}
    return _section(Detection, {**section, **made})


def _section(section: type[Section], tree: Tree) -> Section:
    fields = {field.name for field in dataclasses.fields(section)}  # type: ignore[arg-type]
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in tree.items() if key in fields}
    return section(**values)


def _attacks(norm: str, names: list[str], attack_set: str) -> tuple[str, ...]:
    """Return the attacks of one norm, always including natural accuracy."""
    presets = attack_presets(attack_set)
    for name in names:
        _check_attack(name, attack_set)
        if norm not in presets[name].norms:
            raise BenchError(
                f"attack {name} does not work in {norm}; it supports {', '.join(presets[name].norms)}"
            )
    return tuple(name for name in presets if name in names or name == "none")


def _curve(norm: str, names: list[str], attack_set: str) -> tuple[str, ...]:
    """Return which of the attacks named for curves have a budget to vary and support this norm."""
    for name in names:
        _check_attack(name, attack_set)
    return tuple(
        name
        for name, preset in attack_presets(attack_set).items()
        if name in names and norm in preset.norms and preset.takes_eps
    )


def _check_attack(name: str, attack_set: str) -> None:
    if name not in attack_names():
        raise unknown("attack", name, attack_names())
    if name not in attack_presets(attack_set):
        others = [other for other in SETS if name in attack_presets(other)]
        raise BenchError(
            f"attack {name} has no parameters in the set {attack_set}, only in {', '.join(others)}: "
            f"--set {others[0]}"
        )


def attacks_by_norm(names: list[str], norms: list[str]) -> dict[str, dict[str, list[str]]]:
    """Return each named attack under each norm it supports, for every set; an error if it fits no norm."""
    known = {norm: set[str]() for norm in NORMS}
    for name in names:
        presets = [attack_presets(each)[name] for each in SETS if name in attack_presets(each)]
        if not presets:
            raise unknown("attack", name, attack_names())
        if not set(presets[0].norms) & set(norms):
            raise BenchError(
                f"attack {name} works in {', '.join(presets[0].norms)}, not in {', '.join(norms)}"
            )
        for norm in presets[0].norms:
            known[norm].add(name)
    return {each: {norm: sorted(known[norm]) for norm in NORMS} for each in SETS}


def _at_least(least: float, **values: float) -> None:
    for name, value in values.items():
        if value < least:
            raise BenchError(f"{name.replace('_', '-')} must be at least {least}, got {value}")


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise BenchError(f"{name.replace('_', '-')} must be positive, got {value}")


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise unknown(name, value, choices)
