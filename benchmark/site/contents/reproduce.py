"""Commands that reproduce a family's records, checked against their ids."""

import json
import shlex
import tomllib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from robustness_bench.attacks.registry import PresetError
from robustness_bench.benchmark.data import DATASETS, Located
from robustness_bench.benchmark.data.base import DatasetInfo
from robustness_bench.benchmark.data.registry import dataset_named
from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.files import canonical_json
from robustness_bench.benchmark.grouping import grouped
from robustness_bench.benchmark.networks.hub import HUB
from robustness_bench.benchmark.networks.inputs import RULE
from robustness_bench.benchmark.plan.layers import schedules, to_toml
from robustness_bench.benchmark.plan.protocol import ZOOS, Protocol, load_protocol
from robustness_bench.benchmark.plan.tasks import make_plan
from robustness_bench.benchmark.report.lines.results import precision_of
from robustness_bench.benchmark.site.contents.families import Card, Family
from robustness_bench.benchmark.site.contents.reading import Found
from robustness_bench.benchmark.store.cells import Record
from robustness_bench.benchmark.store.folder import protocol_file
from robustness_bench.benchmark.submit.board.entries import GROUP
from robustness_bench.defenses.registry import defense_presets

Tree = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Part:
    """Records that one command makes: one norm, set and number of images."""

    family: Family
    records: tuple[Record, ...]
    attack_set: str
    threats: tuple[str, ...]
    attacks: tuple[str, ...]
    curve: tuple[str, ...]
    eps: float

    @property
    def spec(self) -> dict[str, Any]:
        """The spec of any of them."""
        return self.records[0].spec

    @property
    def precision(self) -> str:
        """Of the attacks' gradients; empty: float32."""
        return precision_of(self.records)

    @property
    def card(self) -> Card:
        """The card of the model; empty if no store has it."""
        return next(iter(self.family.cards.values()), {"spec": {}})

    def overrides(self) -> Tree:
        """Return the protocol keys, except those for how the model is made."""
        spec = self.spec
        tree: Tree = {
            "defenses": [self.family.defense],
            "datasets": [dataset_of(spec)],
            "norms": [spec["norm"]],
            "threats": list(self.threats),
            "seeds": 1 + max(record.seed for record in self.records),
            "n_examples": spec["n_examples"],
            "attack_set": self.attack_set,
            "attacks": {self.attack_set: {spec["norm"]: list(self.attacks)}},
            "eps": {spec["norm"]: self.eps},
        }
        if self.precision:
            tree["attack_precision"] = self.precision
        if self.curve:
            tree["curve"] = {"attacks": list(self.curve)}
        return tree


def parts(family: Family, wanted: Collection[str]) -> Iterator[Part]:
    """Yield the parts; boards with the same attacks that differ only in the threat share a command.

    Args:
        wanted: ids of the records to cover.
    """
    merged: dict[tuple[Any, ...], dict[str, list[Record]]] = {}
    for board, row in family.places:
        own = [record for record in row.records if record.id in wanted]
        met = {record.spec["attack"] for record in own}
        attacks = tuple(c.attack for c in board.columns if c.key in row.cells and c.attack in met)
        if not own:
            continue
        key = board.dataset, board.norm, board.eps, board.attack_set, board.images, attacks
        of = merged.setdefault(key, {})
        of[board.threat] = [*own, *_other_budgets(family, own, wanted)]
    for (_, _, eps, attack_set, _, attacks), threats in merged.items():
        records = {record.id: record for own in threats.values() for record in own}
        curve = {record.spec["attack"] for record in records.values() if record.spec["eps"] != eps}
        yield Part(
            family=family,
            records=tuple(records.values()),
            attack_set=attack_set,
            threats=tuple(threats),
            attacks=tuple(dict.fromkeys(attacks)),
            curve=tuple(sorted(curve)),
            eps=eps,
        )


def _other_budgets(family: Family, own: Sequence[Record], wanted: Collection[str]) -> list[Record]:
    """Return records of a robustness curve: the same attack at an ε that has no board."""
    boards = {board.eps for board, _ in family.places}
    known = {_but_eps(record) for record in own}
    others = (record for record in family.records if record.id in wanted)
    return [r for r in others if r.spec["eps"] not in boards and _but_eps(r) in known]


def _but_eps(record: Record) -> str:
    spec = record.spec
    parameters = {key: value for key, value in spec["parameters"].items() if key != "eps"}
    keys = ("dataset", "data", "norm", "threat", "n_examples", "attack")
    return canonical_json([parameters, *(spec[key] for key in keys)])


def dataset_of(spec: dict[str, Any]) -> str:
    """Return the name that ``--dataset`` takes for a record's images."""
    return str(spec["facts"]["name"]) if "facts" in spec else base(spec["dataset"])


def base(label: str) -> str:
    """Return the data set of a label; a folder of images may have any name."""
    near = [name for name in DATASETS if name in label.casefold()]
    return label if label in DATASETS else (near or [label])[0]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to reproduce some cells.

    Attributes:
        command: a shell command, as the records have it or as their settings suggest it; empty if there is
            none.
        file: the name of a protocol file that goes with it; empty if there is none.
        config: the content of that file.
        cells: number of records it covers.
        exact: how many of them the command's plan has, by id; None if that cannot be checked here.
        note: what else is needed, or why there is no command.
        told: whether the records say so themselves, and the file has every key.
    """

    command: str
    file: str = ""
    config: str = ""
    cells: int
    exact: int | None
    note: str
    told: bool = False


def recipes(family: Family, found: Found, config_name: str) -> list[Recipe]:
    """Return the commands for all of a family's records: those that made them, as far as records say so.

    For the others, one per norm, set and number of images is inferred.

    Args:
        config_name: name of a protocol file, without its number and extension.
    """
    told = grouped(
        family.records, lambda r: (r.environment.get("command", ""), r.environment.get("protocol", ""))
    )
    inferred = [record for (command, _), own in told.items() if not command for record in own]
    made = [_told(*key, own, found) for key, own in told.items() if key[0]]
    return made + (_inferred(family, inferred, found.cards, config_name) if inferred else [])


def _told(command: str, protocol: str, records: list[Record], found: Found) -> Recipe:
    """Return the command that made some records, with the protocol it came to."""
    stores = {found.files[record.id].parents[5] for record in records}  # above records/DATA/NORM/…/FILE
    file = next((path for store in stores if (path := protocol_file(store, protocol)).is_file()), None)
    return Recipe(
        command=command,
        file=file.name if file else "",
        config=file.read_text(encoding="utf-8") if file else "",
        cells=len(records),
        exact=_exact(file, records) if file else None,
        note="This is the command that made them.",
        told=True,
    )


def _exact(file: Path, records: list[Record]) -> int | None:
    """Return how many of the records a protocol's plan has, by id; None if that cannot be checked here."""
    spec, tree = records[0].spec, tomllib.loads(file.read_text(encoding="utf-8"))
    if tree["dataset"][name := dataset_of(spec)]["weights"]:
        return None
    try:
        plan = _ids(spec, tree | {"datasets": [name]})
    except (BenchError, PresetError):
        return None
    return len({record.id for record in records} & plan)


def _inferred(
    family: Family, records: list[Record], cards: dict[str, Card], config_name: str
) -> list[Recipe]:
    preset = defense_presets().get(family.defense)
    if preset is None or preset.group == GROUP:
        note = "The defense is not part of this installation: run it with --plugin FILE, its source file."
        if preset is not None:
            note = "It is a submission: bench submit run with its folder makes these records again."
        return [Recipe(command="", cells=len(records), exact=None, note=note)]
    whole = list(parts(family, {record.id for record in records}))
    return [
        _recipe(part, cards, f"{config_name}{f'-{i}' if len(whole) > 1 else ''}.toml")
        for i, part in enumerate(whole, 1)
    ]


def _recipe(part: Part, cards: dict[str, Card], config_name: str) -> Recipe:
    label = part.spec["dataset"]
    note = "" if label in DATASETS else f"--data-dir is the folder of images named {label}."
    try:
        tree, options, how = _making(part, cards)
        tree, exact = _checked(part, cards, tree)
    except (BenchError, PresetError, KeyError, TypeError, ValueError) as error:
        reason = f"The store does not hold enough to give a command ({str(error)[:200]})."
        return Recipe(command="", cells=len(part.records), exact=None, note=reason)
    config = "" if options is not None and "surrogate" not in tree else to_toml(tree)
    words = ["bench", "run", "--config", config_name] if config else _words(part, options or [])
    if label not in DATASETS:
        words += ["--data-dir", f"FOLDER/{label}"]
    return Recipe(
        command=shlex.join([*words, "--out", "reproduced"]),
        file=config_name if config else "",
        config=config,
        cells=len(part.records),
        exact=exact,
        note=" ".join(filter(None, [how, note])),
    )


def _making(part: Part, cards: dict[str, Card]) -> tuple[Tree, list[str] | None, str]:
    """Return the protocol, the options for making the model (None: needs a file), and a note."""
    spec, tree = part.card["spec"], part.overrides()
    if spec.get("kind") == "load":
        return _loading(tree, spec, part.card.get("source", ""))
    if "training" not in spec:
        return tree, [], "The store has no card of the training: the command uses the default recipe."
    wanted = {"model": {"name": spec["model"], "width": spec["width"]}, "training": spec["training"]}
    estimators = cards.get(spec["parents"].get("estimators", ""))
    if estimators is not None:
        fixed = defense_presets()[part.family.defense].estimators
        recipe = estimators["spec"]["estimators"]
        wanted["estimators"] = {key: value for key, value in recipe.items() if key not in fixed}
    found = _by_options(tree["datasets"][0], canonical_json(wanted))
    if found is not None:
        return {**tree, **found[0]}, found[1], ""
    return {**tree, **wanted}, None, ""


def _loading(tree: Tree, spec: dict[str, Any], source: str = "") -> tuple[Tree, list[str], str]:
    """Return the same for weights that were not trained here."""
    if str(spec["model"]).startswith(ZOOS):
        file = "@FILE" if "weights" in spec else ""
        note = f"FILE has SHA-256 {spec['weights']}." if file else ""
        return {**tree, "weights": spec["model"] + file}, ["--weights", spec["model"] + file], note
    name = source if source.startswith(HUB) else "FILE"
    options, note = ["--weights", name], f"{name} has SHA-256 {spec['weights']}"
    if "network" in spec:
        options += ["--network", "CODE.py", "--trust-code"]
        note += f", CODE.py, which is run, has {spec['network']}"
    else:
        options += ["--width", str(spec["width"]), *_reading(spec)]
    return {**tree, "weights": name}, options, f"{note}."


def _reading(spec: dict[str, Any]) -> list[str]:
    """Return the options that say how the given weights were run."""
    plain = ["--weights-plain"] if spec.get("plain") else []
    normalised = ["--weights-input", "normalised"] if spec.get("plain") is False else []
    asked = spec.get("input", RULE)
    named = [] if asked == RULE else ["--weights-input", asked]
    entry = ["--weights-entry", spec["entry"]] if "entry" in spec else []
    return [*plain, *normalised, *named, *entry]


@cache
def _by_options(dataset: str, wanted: str) -> tuple[Tree, list[str]] | None:
    """Return a schedule and options that give this training recipe (JSON), or None."""
    tree: Tree = json.loads(wanted)
    for schedule in schedules():
        base: Tree = {"datasets": [dataset], "schedule": schedule, "model": {"width": tree["model"]["width"]}}
        options = ["--schedule", schedule, "--width", str(tree["model"]["width"])]
        for key in ("epochs", "train_limit"):
            value = tree["training"][key]
            if value != getattr(load_protocol(None, base).settings[0].training, key):
                options += [f"--{key.replace('_', '-')}", str(value)]
                base["training"] = base.get("training", {}) | {key: value}
                if key == "epochs":
                    base["estimators"] = {"epochs": value}
        if _says(load_protocol(None, base), tree):
            del base["datasets"]
            return base, options
    return None


def _says(protocol: Protocol, wanted: Tree) -> bool:
    settings = protocol.settings[0].model_dump()
    return all(
        canonical_json({key: settings[section][key] for key in values}) == canonical_json(values)
        for section, values in wanted.items()
    )


def _checked(part: Part, cards: dict[str, Card], tree: Tree) -> tuple[Tree, int | None]:
    """Return the protocol with the surrogate that gives the most of the records' ids, and their number."""
    weights = tree.get("weights", "")
    if weights and (not weights.startswith(ZOOS) or weights.endswith("@FILE")):
        return tree, None
    own = {record.id for record in part.records}
    best = tree, len(own & _ids(part.spec, tree))
    if best[1] < len(own) and "black" in part.threats:
        for surrogate in _surrogates(part, cards):
            other = {**tree, "surrogate": surrogate}
            best = max(best, (other, len(own & _ids(part.spec, other))), key=lambda pair: pair[1])
    return best


def _ids(spec: dict[str, Any], tree: Tree) -> set[str]:
    protocol = load_protocol(None, tree | {"diagnosis": False})
    info = _info(spec)
    tests = max(info.test_images, spec["n_examples"])
    data = Located(info, spec["dataset"], spec["data"], info.train_images, tests, Path())
    return {task.id for task in make_plan(protocol, {info.name: data}) if task.how.result}


def _info(spec: dict[str, Any]) -> DatasetInfo:
    """Of the data set; a folder of images has the facts that the records say."""
    info = dataset_named(dataset_of(spec)).info
    told = spec.get("facts")
    if told is None:
        return info
    return replace(info, classes=told["classes"], mean=tuple(told["mean"]), std=tuple(told["std"]))


def _surrogates(part: Part, cards: dict[str, Card]) -> list[Tree]:
    """Return Standard-AT models of the store that may have been the surrogate."""
    standard = canonical_json(defense_presets()["standard"].identity())
    found = {}
    for card in cards.values():
        spec = card["spec"]
        same = all(spec.get(key) == part.spec[key] for key in ("dataset", "data", "norm"))
        if spec.get("kind") == "train" and same and canonical_json(spec["defense"]) == standard:
            surrogate = {"model": spec["model"], "width": spec["width"], "seed": card["seed"]}
            found[canonical_json(surrogate)] = surrogate
    return [found[key] for key in sorted(found)]


def _words(part: Part, making: list[str]) -> list[str]:
    spec, tree = part.spec, part.overrides()
    words = ["bench", "run", "--defense", part.family.defense, "--dataset", tree["datasets"][0]]
    words += ["--norm", spec["norm"], "--threat", ",".join(part.threats)]
    words += ["--attacks", ",".join(part.attacks), "--seeds", str(tree["seeds"])]
    words += ["--n-examples", str(spec["n_examples"])]
    words += [] if part.attack_set == "strict" else ["--set", part.attack_set]
    words += ["--attack-precision", part.precision] if part.precision else []
    words += ["--curve", ",".join(part.curve)] if part.curve else []
    if part.eps != _info(spec).eps(spec["norm"]):
        words += [f"--eps-{spec['norm']}", repr(part.eps)]
    return words + making
