"""What to run: a TOML file, overridden by options, checked before anything starts.

The built-in ``protocols/default.toml`` and ``schedules/namid-paper.toml`` give every key its default. The
models below say what a key may be; an unknown key is an error.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, Field, model_validator

from robustness_bench.attacks.registry import (
    BF16,
    NORMS,
    SETS,
    STORAGES,
    AttackPreset,
    attack_names,
    attack_preset,
    attack_presets,
    in_order,
    parsed,
)
from robustness_bench.benchmark.data.base import DatasetInfo
from robustness_bench.benchmark.data.folder import FOLDER, parse_fit
from robustness_bench.benchmark.data.registry import dataset_named, dataset_names
from robustness_bench.benchmark.errors import BenchError, check_known, unknown
from robustness_bench.benchmark.models import (
    AtLeast0,
    Finite,
    Loc,
    Positive,
    Several,
    Share,
    Strict,
    UpTo1,
    checked,
    named,
    shown,
)
from robustness_bench.benchmark.networks import MODELS
from robustness_bench.benchmark.networks.named import NAMED
from robustness_bench.benchmark.plan.layers import DEFAULT, Tree, merged, overlaid, read_toml, with_schedule
from robustness_bench.defenses.detectors.registry import system_presets
from robustness_bench.defenses.registry import defense_presets

THREATS = ("white", "black")
ADAPTIVE = ("white", "grey")
OBJECTIVES = ("eq-5", "eq-4", "author", "standard")
ZOO = "robustbench:"
ZOOS = (ZOO, *NAMED)
"""What the names of networks begin with that bring their weights."""
_OF_WEIGHTS = ("weights_plain", "weights_input", "weights_entry")

Architecture = Annotated[str, named("model", lambda: MODELS)]
Count = Annotated[int, Field(ge=1)]
Batch = Annotated[int, Field(ge=2)]
Limit = Annotated[int, Field(ge=0)]
Names = Several[str]


class Training(Strict):
    """How a model is trained; all of it enters its id. Units, sources: ``schedules/namid-paper.toml``.

    A field with a default here is younger than the first records: see ``Strict.identity``.
    """

    epochs: Count
    batch_size: Batch
    train_limit: Limit
    holdout: Share
    selection: Literal["last", "best"]
    lr: Positive
    momentum: AtLeast0
    weight_decay: AtLeast0
    lr_schedule: Literal["steps", "one-cycle"]
    milestones: Several[Finite]
    augment: Literal["crop-flip", "crop", "none"]
    attack_steps: Count
    rel_step_size: Positive
    attack_start: Literal["uniform", "near"]
    clip_norm: AtLeast0
    ema: Share
    precision: Literal["float32", "bf16"]
    selection_steps: Limit = 0
    label_smoothing: Share = 0.0
    cutmix: UpTo1 = 0.0
    erase: UpTo1 = 0.0
    awp: AtLeast0 = 0.0
    awp_from: Share = 0.0
    prior: AtLeast0 = 0.0
    prior_momentum: Share = 0.3
    prior_reset: Count = 40

    @model_validator(mode="after")
    def _consistent(self) -> "Training":
        if self.train_limit == 1:
            raise ValueError("has train_limit 1: it must be 0 (all) or at least 2, for batch norm")
        if self.selection == "best" and not self.holdout:
            raise ValueError('has selection "best", which needs held-out images: set holdout above 0')
        if self.awp_from and not self.awp:
            raise ValueError("has awp_from, which says when awp begins: set awp above 0")
        for name in ("prior_momentum", "prior_reset"):
            if not self.prior and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"has {name}, which is the prior's: set prior above 0")
        return self


class Estimators(Strict):
    """How the MI estimators are trained."""

    epochs: Count
    batch_size: Batch
    lr: Positive
    milestones: Several[Finite]
    attack_steps: Count
    units: Count
    scores: Literal["cosine", "dot"]
    temperature: Positive
    bound: Literal["dv", "jsd", "infonce"]
    objective: Literal["eq-5", "eq-4", "author", "standard"]
    floor: bool
    selection: Literal["last", "best"]
    clip_norm: AtLeast0
    rel_step_size: AtLeast0 = 0.0


class Model(Strict):
    """The defended architecture."""

    name: Architecture
    width: Count


class Member(NamedTuple):
    """One Standard-AT model that black-box attacks are crafted on."""

    model: str
    width: int
    seed: int

    def __str__(self) -> str:
        return ":".join(map(str, self))


def _member(text: str) -> str:
    """Check NETWORK, NETWORK:WIDTH or NETWORK:WIDTH:SEED."""
    name, *numbers = text.split(":")
    if len(numbers) > 2 or not all(each.isdecimal() for each in numbers) or numbers[:1] == ["0"]:
        raise ValueError(f"must be NETWORK, NETWORK:WIDTH or NETWORK:WIDTH:SEED, got {shown(text)}")
    if name not in MODELS:
        raise ValueError(f"is an {unknown('model', name, MODELS)}")
    return text


class Surrogate(Strict):
    """The model that black-box attacks are crafted on; width 0 = the defended model's.

    ``models`` are several in its place, or another one: on their mean logits. Width and seed are those of all
    that do not say their own.
    """

    model: Architecture
    width: Limit
    seed: Limit
    models: Several[Annotated[str, AfterValidator(_member)]] = ()

    def members(self, width: int) -> list[Member]:
        """Return the models, each once, in an order of their own; ``width`` is the defended model's."""
        found = set()
        for text in self.models or (self.model,):
            name, *numbers = text.split(":")
            own, seed = [*map(int, numbers), *(self.width or width, self.seed)[len(numbers) :]]
            found.add(Member(name, own, seed))
        return sorted(found)


class Search(Strict):
    """What differs from C&W's parameters in the strict set, for attacks on detectors."""

    search_steps: Count
    steps: Count
    step_size: Positive
    initial_const: Positive
    abort_early: bool


class ElasticSearch(Search):
    """Those parameters of EAD."""

    beta: AtLeast0


class Searches(Strict):
    """Those parameters, by attack."""

    cw: Search
    ead: ElasticSearch


class AdaptiveAttack(Search):
    """Parameters of ``attacks.adaptive``."""

    targets: Count
    confidence: AtLeast0
    weight: AtLeast0
    slack: AtLeast0


def confident_attacks() -> list[str]:
    """Return the attacks that have a confidence κ and no budget, as published: those used on detectors."""
    presets = [each for each in attack_presets("strict").values() if each.kind == "minimum-norm"]
    return [
        each.name
        for each in presets
        if "confidence" in each.parameters and "warm_steps" not in each.parameters
    ]


class Detection(Strict):
    """What detectors guard, and the attacks on it. Units: ``protocols/default.toml``."""

    classifier: Annotated[str, named("defense", defense_presets)]
    """The defense whose model is the classifier."""
    model: Model
    training: Training
    attacks: Several[Annotated[str, named("attack on detectors", confident_attacks)]]
    confidences: Annotated[Several[AtLeast0], Field(min_length=1)]
    n_examples: Limit
    parameters: Searches
    adaptive: Several[Literal["white", "grey"]]
    adaptive_examples: Limit
    adaptive_attack: AdaptiveAttack
    part_epochs: Limit


class PerNorm(Strict):
    """Names of attacks under each norm."""

    linf: Names
    l2: Names


class Sets(Strict):
    """Names of attacks, by parameter set."""

    strict: PerNorm
    paper: PerNorm


class Curve(Strict):
    """Attacks that also run at other budgets, in multiples of ε."""

    attacks: Names
    budgets: Several[Positive]


class Budgets(Strict):
    """ε in pixels of [0, 1]; 0 = the data set's own."""

    linf: Finite
    l2: Finite


class Whole(Strict):
    """The keys that hold for all data sets, as a file has them."""

    datasets: Names = Field(min_length=1)
    defenses: Names = Field(min_length=1)
    norms: Names = Field(min_length=1)
    threats: Names = Field(min_length=1)
    seeds: Annotated[int, Field(ge=1, le=1000)]
    diagnosis: bool


def surrogate_words(settings: "Settings") -> str:
    """Return what black-box images are crafted on, in a few words."""
    members = settings.surrogate.members(settings.model.width)
    if len(members) == 1:
        return f"a Standard-AT {members[0].model}"
    told = [f"{each.model} of width {each.width}, seed {each.seed}" for each in members]
    return f"the mean logits of {len(told)} Standard-AT models ({'; '.join(told)})"


class _Shared(Strict):
    """Keys of a data set that are used as they are written."""

    n_examples: Limit
    attack_set: Literal["strict", "paper"]
    """The attacks' parameter set."""
    attack_precision: Literal["float32", "bf16"]
    """Of the gradients of attacks that can lower it; successes are judged in float32"""
    model: Model
    surrogate: Surrogate
    schedule: str
    training: Training
    estimators: Estimators
    weights: str
    """A file, a folder, hf:… or a name of one of ``ZOOS``, in place of training; empty: train"""
    weights_input: str
    """Input of a file's network (``networks.inputs.parse``); empty: found on training images"""
    weights_entry: str
    """Which of several sets of weights in a file; empty: the only one"""
    network: str
    """A .py file with the network of ``weights``, run confined; empty: ``model``"""
    fit: str
    """How the images of a folder are made squares of one size (``data.folder.Fit``); empty: they must be"""
    detection: Detection


class Keys(Whole, _Shared):
    """Every key, as a file has them for one data set."""

    attacks: Sets
    curve: Curve
    eps: Budgets
    weights_plain: bool
    """Short for ``weights_input = "plain"``."""


class Settings(_Shared):
    """The settings for one data set."""

    dataset: str
    attacks: dict[str, tuple[str, ...]]
    """norm -> names"""
    curve: dict[str, tuple[str, ...]]
    """norm -> names of the attacks that also run at other budgets"""
    budgets: tuple[Finite, ...]
    """those budgets, in multiples of ``eps``"""
    eps: dict[str, Finite]
    """norm -> budget in pixels of [0, 1]"""


class Protocol(Strict):
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
    resolved: Tree = Field(default={})
    """Every key with its value, in a file's form; of given weights only the files' names."""


class _Layer(NamedTuple):
    origin: str
    """What an error puts before its keys."""
    tree: Tree


def load_protocol(config: Path | Mapping[str, Any] | None = None, overrides: Tree | None = None) -> Protocol:
    """Return the built-in protocol, overridden by a file or a mapping, then by ``overrides`` (same keys).

    Raises:
        BenchError: unreadable file, unknown key or name, value out of range.
    """
    where = f"{config}: " if isinstance(config, Path) else "the protocol: "
    given = read_toml(config) if isinstance(config, Path) else dict(config or {})
    layers = [_Layer("", read_toml(DEFAULT)), _Layer(where, given), _Layer("", overrides or {})]
    sections = _sections(layers[1])
    common = overlaid([layer.tree for layer in layers])
    common = {key: common[key] for key in Whole.model_fields}
    whole = checked(Whole, common, lambda loc: _origin(layers, "", loc))
    datasets = _in_order(whole.datasets, dataset_names(), "data set")
    keys = {name: _keys(layers, name) for name in dict.fromkeys([*datasets, *sections])}
    norms = _in_order(whole.norms, NORMS, "norm")
    defenses = _in_order(whole.defenses, [*defense_presets(), *system_presets()], "defense")
    for name in datasets:
        _check_given(keys[name], whole)
        _check_surrogates(keys[name], whole)
    settings = tuple(_settings(name, keys[name], norms) for name in datasets)
    return Protocol(
        defenses=tuple(name for name in defenses if name in defense_presets()),
        detectors=tuple(name for name in defenses if name in system_presets()),
        norms=norms,
        threats=_in_order(whole.threats, THREATS, "threat"),
        seeds=whole.seeds,
        diagnosis=whole.diagnosis,
        settings=settings,
        resolved=whole.model_dump(mode="json")
        | {"dataset": {each.dataset: _resolved(keys[each.dataset], each) for each in settings}},
    )


def _resolved(keys: Keys, settings: Settings) -> Tree:
    files = {key: Path(getattr(keys, key)).name for key in ("weights", "network")}
    return keys.model_dump(mode="json", exclude=set(Whole.model_fields)) | files | {"eps": settings.eps}


def _sections(layer: _Layer) -> list[str]:
    """Return the data sets that a layer has sections of, after checking that they can be theirs."""
    sections = layer.tree.get("dataset", {})
    if not isinstance(sections, Mapping) or not all(isinstance(each, Mapping) for each in sections.values()):
        raise BenchError(f"{layer.origin}dataset must hold a table per data set, such as [dataset.mnist]")
    for name, section in sections.items():
        dataset_named(name)
        if common := [key for key in Whole.model_fields if key in section]:
            raise BenchError(
                f"{layer.origin}{common[0]} holds for all data sets: write it above [dataset.{name}]"
            )
    return list(sections)


def _keys(layers: Sequence[_Layer], dataset: str) -> Keys:
    """Return all keys of one data set; the classifier of detectors is trained as models are, unless said."""
    tree = with_schedule([layer.tree for layer in layers], dataset)
    tree["detection"] = merged({"training": tree["training"]}, tree["detection"])
    return checked(Keys, tree, lambda loc: _origin(layers, dataset, loc))


def _origin(layers: Sequence[_Layer], dataset: str, loc: Loc) -> str:
    """Return which layer says what stands at ``loc``, and in which section; empty for options."""
    for layer in reversed(layers):
        own = layer.tree.get("dataset", {}).get(dataset, {})
        for section, tree in ((f"[dataset.{dataset}] ", own), ("", layer.tree)):
            if _has(tree, [part for part in loc if isinstance(part, str)]):
                return layer.origin + section
    return ""


def _has(tree: Any, path: Sequence[str]) -> bool:
    return not path or (isinstance(tree, Mapping) and path[0] in tree and _has(tree[path[0]], path[1:]))


def _check_given(keys: Keys, whole: Whole) -> None:
    """Check that given weights are for one model, and that no option of them is given without them."""
    if keys.fit:
        parse_fit(keys.fit)  # or an error
        if FOLDER.info.name not in whole.datasets:
            raise BenchError(f"--fit {keys.fit} is of a folder of images: --dataset {FOLDER.info.name}")
    if not keys.weights:
        if unused := [f"--{key.replace('_', '-')}" for key in _OF_WEIGHTS if getattr(keys, key)]:
            raise BenchError(f"{', '.join(unused)} is for given weights: name their file with --weights")
        if keys.network:
            raise BenchError(f"--network {keys.network} is not trained here: name its --weights too")
        return
    for names, flag in ((whole.defenses, "--defense"), (whole.datasets, "--dataset")):
        if len(set(names)) != 1:
            raise BenchError(f"--weights {keys.weights} is one model: name its one {flag}")
    unread = [f"--{key.replace('_', '-')}" for key in _OF_WEIGHTS if getattr(keys, key)]
    if keys.network and unread:
        raise BenchError(
            f"--network {keys.network} says itself how it reads images: leave {', '.join(unread)} out"
        )
    if keys.weights.startswith(ZOOS) and (unread := [*unread, *["--network"] * bool(keys.network)]):
        raise BenchError(f"--weights {keys.weights} brings its own network: leave {', '.join(unread)} out")
    if whole.seeds != 1:
        raise BenchError(
            f"--weights {keys.weights} is one model, got {whole.seeds} seeds: run each file by itself"
        )
    if keys.weights_plain and keys.weights_input not in ("", "plain"):
        raise BenchError(
            f"--weights-plain is --weights-input plain, got {keys.weights_input} too: leave one out"
        )


def _check_surrogates(keys: Keys, whole: Whole) -> None:
    """Check that named surrogates are different models, none of them attacked itself (a white box)."""
    model, members = keys.model, keys.surrogate.members(keys.model.width)
    if len(members) < len(keys.surrogate.models):
        raise BenchError(
            f"of the surrogates {', '.join(keys.surrogate.models)} two are the same model "
            f"({', '.join(map(str, members))}): name each once, or give it another width or seed"
        )
    attacked = not keys.weights and "black" in whole.threats and "standard" in whole.defenses
    for each in members if attacked and keys.surrogate.models else ():
        if each[:2] == (model.name, model.width) and each.seed < whole.seeds:
            other = each._replace(seed=max(whole.seeds, *(each.seed + 1 for each in members)))
            raise BenchError(f"the surrogate {each} is the defense standard itself: name {other}")


def _in_order(names: Iterable[str], known: Iterable[str], kind: str) -> tuple[str, ...]:
    known = list(known)
    check_known(kind, names, known)
    return tuple(name for name in known if name in names)


def _settings(name: str, keys: Keys, norms: tuple[str, ...]) -> Settings:
    info, attack_set = dataset_named(name).info, keys.attack_set
    eps = {norm: getattr(keys.eps, norm) or info.eps(norm) for norm in NORMS}
    check_budgets(info, eps, keys.curve.budgets if keys.curve.attacks else ())
    listed = getattr(keys.attacks, attack_set)
    attacks = {norm: _attacks(norm, getattr(listed, norm), attack_set) for norm in norms}
    curve = {norm: _curve(norm, keys.curve.attacks, attack_set) for norm in norms}
    changed = {
        "dataset": name,
        "attacks": attacks,
        "curve": curve,
        "budgets": tuple(sorted(set(keys.curve.budgets) - {1.0})),
        "eps": eps,
        "weights_input": "plain" if keys.weights_plain else keys.weights_input,
        "fit": keys.fit if name == FOLDER.info.name else "",
    }
    if keys.attack_precision == BF16:
        lists = [*attacks.values(), *curve.values()]
        _check_lowered(keys, {name for names in lists for name in names})
    return Settings(**{key: getattr(keys, key) for key in _Shared.model_fields} | changed)


def _check_lowered(keys: Keys, names: Collection[str]) -> None:
    """Raise BenchError if gradients in bf16 were asked for where nothing can have them."""
    if keys.network:
        raise BenchError(
            f"attack_precision bf16 does not reach {keys.network}, which runs in a process of its own"
        )
    able = [name for name, preset in attack_presets(keys.attack_set).items() if preset.bf16]
    if not set(able) & {parsed(name)[0] for name in names}:
        raise BenchError(f"attack_precision bf16 changes none of these attacks: add one of {', '.join(able)}")


def check_budgets(info: DatasetInfo, eps: Mapping[str, float], factors: Sequence[float]) -> None:
    """Raise BenchError unless every ε, and those of curves, lie within the pixel box of such images."""
    for norm, value in eps.items():
        widest, furthest = info.widest(norm), max(factors, default=1.0)
        if not 0 < value <= widest:
            raise BenchError(
                f"ε must be positive and fit into the pixel box, got {value} for {norm}: "
                f"set eps.{norm} to at most {widest:.4g}"
            )
        if value * furthest > widest:
            raise BenchError(
                f"curve.budgets: {furthest} × ε = {value} does not fit into the pixel box for {norm}"
            )


def _attacks(norm: str, names: Sequence[str], attack_set: str) -> tuple[str, ...]:
    """Return the attacks of one norm, always with natural accuracy and what stored images are made of."""
    for name in names:
        norms = _preset(name, attack_set).norms
        if norm not in norms:
            raise BenchError(f"attack {name} does not work in {norm}; it supports {', '.join(norms)}")
    return tuple(in_order(["none", *names, *(parsed(name)[0] for name in names)]))


def _curve(norm: str, names: Sequence[str], attack_set: str) -> tuple[str, ...]:
    """Return which of the attacks named for curves have a budget to vary and support this norm."""
    presets = {name: _preset(name, attack_set) for name in names}
    return tuple(name for name in in_order(names) if norm in presets[name].norms and presets[name].takes_eps)


def _preset(name: str, attack_set: str) -> AttackPreset:
    presets = _presets(name)
    if attack_set not in presets:
        raise BenchError(
            f"attack {name} has no parameters in the set {attack_set}, only in {', '.join(presets)}: "
            f"--set {next(iter(presets))}"
        )
    return presets[attack_set]


def _presets(name: str) -> dict[str, AttackPreset]:
    """Return set -> preset; an error if no set has this attack."""
    presets = {each: preset for each in SETS if (preset := attack_preset(name, each))}
    if not presets and name.partition("@")[0] in attack_names():
        ways = ", ".join(f"@{way}{'75' * way.endswith('-')} ({told})" for way, told in STORAGES.items())
        raise BenchError(
            f"attack {name} names no storage of images: end it with {ways}; natural images have 8 bits"
        )
    if not presets:
        raise unknown("attack", name, attack_names())
    return presets


def attacks_by_norm(names: list[str], norms: list[str]) -> dict[str, dict[str, list[str]]]:
    """Return each named attack under each norm it supports, for every set; an error if it fits no norm."""
    known = {norm: set[str]() for norm in NORMS}
    for name in names:
        preset = next(iter(_presets(name).values()))
        if not set(preset.norms) & set(norms):
            raise BenchError(f"attack {name} works in {', '.join(preset.norms)}, not in {', '.join(norms)}")
        for norm in preset.norms:
            known[norm].add(name)
    return {each: {norm: sorted(known[norm]) for norm in NORMS} for each in SETS}
