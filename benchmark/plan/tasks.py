"""From a protocol to tasks: their dependencies, and ids made of everything that decides a result."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from robustness_bench.attacks.registry import AttackPreset, attack_preset, parsed
from robustness_bench.benchmark.data import Located
from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.files import short_hash
from robustness_bench.benchmark.models import checked
from robustness_bench.benchmark.networks import MODELS
from robustness_bench.benchmark.networks.hub import local_file, stem
from robustness_bench.benchmark.networks.inputs import RULE, parse
from robustness_bench.benchmark.networks.named import NAMED
from robustness_bench.benchmark.networks.named import parse as parse_named
from robustness_bench.benchmark.networks.weights import fingerprint
from robustness_bench.benchmark.networks.zoo import robustbench_file
from robustness_bench.benchmark.plan.kinds import TASK_KINDS, TaskKind
from robustness_bench.benchmark.plan.probe import probe_for
from robustness_bench.benchmark.plan.protocol import ZOO, Estimators, Protocol, Settings
from robustness_bench.defenses.registry import DefensePreset, defense_presets

OWN = "own"
"""The architecture's name for weights whose network came as code."""
INNER_LOSS = "log-odds"
"""The default inner loss of trainings, also used to judge held-out images."""
_FORMAT = 3  # increment it when a code change alters the meaning of finished tasks


@dataclass(frozen=True, kw_only=True)
class Task:
    """One piece of work. Picklable; its only paths are the data's folder and given files.

    Attributes:
        kind: a name of ``kinds.TASK_KINDS``.
        spec: all that decides the result, JSON; the ids of its parents are in it.
        id: hash of ``spec`` and ``seed``.
        family: the same hash without any seed, so that a family is one line of the results.
        parents: role -> task.
        data: where the decoded images are; not part of the id.
        source: for a "load" task, what --weights names: a file, whose hash is in ``spec``, a folder or
            repository with such a file, or a name in a model zoo.
        network: for a "load" task, the file with the network's code, if it has its own.
        shard: only these of its images; what they give is kept for the task of the same path that has all.
        images: for a cell, the task that makes its images, where other cells are of the same; not part of the
            id, since the cell makes the same ones itself.
    """

    kind: str
    title: str
    spec: dict[str, Any]
    seed: int
    id: str
    family: str
    path: Path
    data: Located = field(repr=False)
    parents: dict[str, "Task"] = field(default_factory=dict, repr=False)
    source: str = ""
    network: str = ""
    images: "Task | None" = field(default=None, repr=False)
    shard: slice | None = None

    @property
    def share(self) -> float:
        """The share of its work that is its own: the rest is done by its shards, or it is one."""
        if self.shard:
            share: float = (self.shard.stop - self.shard.start) / self.spec["n_examples"]
            return share
        return 0.0 if any(parent.shard for parent in self.parents.values()) else 1.0

    @property
    def is_cell(self) -> bool:
        """Whether its result is a cell: a shard's is only a part of one."""
        return self.how.result and not self.shard

    @property
    def needs(self) -> "list[Task]":
        """What must exist before it can run."""
        return [*self.parents.values(), *([self.images] if self.images else [])]

    @property
    def how(self) -> TaskKind:
        """What is particular to its kind."""
        return TASK_KINDS[self.kind]

    def lineage(self) -> Iterator["Task"]:
        """Yield everything that must exist before this task can run, parents first, then the task itself."""
        for parent in self.needs:
            yield from parent.lineage()
        yield self


def make_plan(protocol: Protocol, data: dict[str, Located]) -> list[Task]:
    """Return all cells' evaluations, all models' diagnoses and all they need, each once, parents first.

    Args:
        data: data set name -> its location.
    """
    tasks: dict[str, Task] = {}
    diagnoses: list[Task] = []
    for settings in protocol.settings:
        planner = Planner(settings, data[settings.dataset])
        own: dict[tuple[str, str, int], list[Task]] = {}
        rows = product(range(protocol.seeds), protocol.norms, protocol.threats, protocol.defenses)
        for seed, norm, threat, defense in rows:
            for attack, budget in _columns(settings, norm):
                cell = planner.evaluate(threat, norm, defense, attack, budget, seed)
                tasks.update({task.id: task for task in cell.lineage()})
                own.setdefault((defense, norm, seed), []).append(cell)
        if protocol.diagnosis:
            diagnoses += [planner.diagnose(*model, cells) for model, cells in own.items()]
    return [*tasks.values(), *{task.id: task for task in diagnoses}.values()]


def make_mi_plan(protocol: Protocol, data: dict[str, Located], objectives: Sequence[str]) -> list[Task]:
    """Return the MI tasks of every defense under every attack but "none", and all they need, each once.

    Raises:
        BenchError: detectors among the defenses, or a single test image, which cannot be compared with
            others.
    """
    if protocol.detectors:
        raise BenchError(f"{', '.join(protocol.detectors)} is a detector: name defenses here")
    tasks: dict[str, Task] = {}
    for settings in protocol.settings:
        if settings.n_examples == 1:
            raise BenchError(
                "mutual information is estimated by comparing images: n-examples must be above 1"
            )
        planner = Planner(settings, data[settings.dataset])
        for seed, norm, defense in product(range(protocol.seeds), protocol.norms, protocol.defenses):
            for attack, objective in product(settings.attacks[norm], objectives):
                if attack != "none" and not parsed(attack)[1]:
                    task = planner.measure_mi(norm, defense, attack, objective, seed)
                    tasks.update({each.id: each for each in task.lineage()})
    return list(tasks.values())


def _columns(settings: Settings, norm: str) -> Iterator[tuple[str, float]]:
    """Yield (attack, ε) of every cell that a defense has under one norm."""
    eps = settings.eps[norm]
    yield from ((attack, eps) for attack in settings.attacks[norm])
    yield from ((attack, eps * factor) for attack in settings.curve[norm] for factor in settings.budgets)


@cache
def weights_hash(source: str) -> str:
    """Return the SHA-256 of a file of weights (``hub.local_file``), or of their network's code.

    Raises:
        BenchError: it cannot be read.
    """
    return fingerprint(local_file(source))


def _reading(settings: Settings) -> dict[str, Any]:
    """Return how given weights are to be run, as it enters ids.

    If the reading is still to be chosen by evidence, the rule's name represents it: the rule gives the same
    answer for the same weights and data, whose hashes are also in the id.
    """
    asked = {"entry": settings.weights_entry} if settings.weights_entry else {}
    if settings.weights_input in ("plain", "normalised"):
        return {"plain": settings.weights_input == "plain", **asked}
    if settings.weights_input:
        parse(settings.weights_input)  # raises an error if it is invalid
    return {"input": settings.weights_input or RULE, **asked}


class Planner:
    """Makes the tasks of one data set; equal tasks have equal ids, so they are shared."""

    def __init__(self, settings: Settings, data: Located) -> None:
        self.settings, self.data = settings, data

    def evaluate(self, threat: str, norm: str, defense: str, attack: str, eps: float, seed: int) -> Task:
        """A cell: one defense against one attack at one ε."""
        settings, (base, storage) = self.settings, parsed(attack)
        model, preset = self.train(defense, norm, seed), self._attack(attack)
        parents, images, ensemble = {"model": model}, None, {}
        if base == "none":
            pass
        elif threat == "black":
            surrogates, members = self.surrogates(norm), settings.surrogate.members(settings.model.width)
            name = "+".join(each.model for each in members)
            parents["crafted"] = self.craft(surrogates, name, norm, preset, eps, "transfer")
            ensemble = {"surrogates": [str(each) for each in members]} if len(members) > 1 else {}
        elif storage or "rule" in preset.parameters:  # one run serves all rules
            parents["crafted"] = self.craft([model], defense, norm, preset, eps, "untargeted")
        elif self._is_stored(attack, norm, eps):
            images = self.craft([model], defense, norm, preset, eps, "untargeted")
        spec = {
            "threat": threat,
            "norm": norm,
            "eps": eps,
            "defense": defense,
            "attack": attack,
            "kind_of_attack": preset.kind,
            "parameters": preset.identity(norm, eps, settings.attack_precision),
            **({"storage": storage} if storage else {}),
            **ensemble,
            **self.sample(),
        }
        at = "" if eps == settings.eps[norm] else f" at ε = {eps:.4g}"
        stem = f"{norm}/{threat}/{defense}/{attack}-seed{seed}"
        return replace(self.task("evaluate", spec, seed, stem, parents, at=at), images=images)

    def _attack(self, name: str) -> AttackPreset:
        preset = attack_preset(name, self.settings.attack_set)
        assert preset is not None, name  # the protocol is checked
        return preset

    def _is_stored(self, attack: str, norm: str, eps: float) -> bool:
        """Return whether the same images are also judged after being stored."""
        settings = self.settings
        names = settings.attacks[norm] if eps == settings.eps[norm] else settings.curve[norm]
        return any(parsed(name)[0] == attack != name for name in names)

    def diagnose(self, defense: str, norm: str, seed: int, cells: Sequence[Task]) -> Task:
        """Return a model's check for hidden gradients, for all its cells under one norm; none needs it."""
        probe = probe_for(cells)
        spec = {"norm": norm, "eps": self.settings.eps[norm], "probe": probe, **self.sample()}
        attacks = probe["attacks"]
        told = f"attacks on {attacks['images']} images" if attacks else "signs only"
        parents = {"model": self.train(defense, norm, seed)}
        stem = f"{defense}-{norm}-seed{seed}"
        return self.task("diagnose", spec, seed, stem, parents, defense=defense, told=told)

    def train(self, defense: str, norm: str, seed: int) -> Task:
        """Return a defended model's task: trained, or loaded if weights are given."""
        model = self.settings.model
        if self.settings.weights:
            return self._load(defense, norm, model.name, model.width)
        return self._train(defense, norm, seed, model.name, model.width)

    def surrogates(self, norm: str) -> list[Task]:
        """Return the tasks of the Standard-AT models that black-box attacks are crafted on."""
        members = self.settings.surrogate.members(self.settings.model.width)
        return [self._train("standard", norm, each.seed, each.model, each.width) for each in members]

    def _train(self, defense: str, norm: str, seed: int, model: str, width: int) -> Task:
        preset, settings = defense_presets()[defense], self.settings
        parents = {}
        if "estimators" in preset.requires:
            parents["estimators"] = self.estimators("standard", norm, seed, self._recipe(preset))
        spec = {
            "model": model,
            "width": width,
            **MODELS[model].identity(),
            "defense": preset.identity(),
            "training": settings.training.identity(),
            **self.data.identity,
        }
        name = f"{defense}-{model}"
        if preset.adversarial:  # a naturally trained model is the same for every norm
            spec |= {"norm": norm, "eps": settings.eps[norm], "inner_loss": INNER_LOSS}
            name += f"-{norm}"
        return self.task("train", spec, seed, f"{name}-seed{seed}", parents, network=name)

    def _recipe(self, preset: DefensePreset) -> dict[str, Any]:
        """Return a defense's estimator recipe: the protocol's, overridden by the preset."""
        values = {**dict(self.settings.estimators), **preset.estimators}
        return checked(
            Estimators, values, lambda loc: f"the estimators of defense {preset.name!r}: "
        ).identity()

    def _load(self, defense: str, norm: str, model: str, width: int) -> Task:
        """Return the task that copies given weights into the store."""
        source = self.settings.weights
        if source.startswith(ZOO):
            name = source.removeprefix(ZOO)
            robustbench_file(name, self.data.info.name, norm, Path())  # raises an error if it is invalid
            architecture: dict[str, Any] = {"model": source, "zoo_norm": norm}
            name += f"-{norm}"
        elif source.startswith(NAMED):
            named = parse_named(source)
            architecture = {"model": named.name}
            if named.file is not None:
                architecture["weights"] = weights_hash(str(named.file))
            name = re.sub(r"[^\w.@-]", "-", named.name.partition(":")[2])
        elif network := self.settings.network:
            hashes = {"network": weights_hash(network), "weights": weights_hash(source)}
            architecture = {"model": OWN, **hashes}
            name = f"{stem(source)}-{OWN}"
        else:
            architecture = {"model": model, "width": width, "weights": weights_hash(source)}
            architecture |= MODELS[model].identity()
            architecture |= _reading(self.settings)
            name = f"{stem(source)}-{model}"
        spec = {**architecture, "defense": defense, **self.data.identity}
        task = self.task("load", spec, 0, f"{defense}-{name}", {}, source=source)
        return replace(task, source=source, network=self.settings.network)

    def estimators(self, defense: str, norm: str, seed: int, recipe: dict[str, Any]) -> Task:
        """Return the task for MI estimators on a frozen model; a defense's are on Standard AT, same seed."""
        settings = self.settings
        spec = {
            "norm": norm,
            "eps": settings.eps[norm],
            "inner_loss": INNER_LOSS,
            "estimators": recipe,
            "training": settings.training.identity(),
            **self.data.identity,
        }
        name = f"estimators-{recipe['objective']}-on-{defense}-{norm}"
        parents = {"pretrained": self.train(defense, norm, seed)}
        return self.task("estimators", spec, seed, f"{name}-seed{seed}", parents, network=name)

    def measure_mi(self, norm: str, defense: str, attack: str, objective: str, seed: int) -> Task:
        """Return the task for the MI of a model's outputs on natural and attacked test images, per image."""
        settings = self.settings
        eps, model = settings.eps[norm], self.train(defense, norm, seed)
        recipe = settings.estimators.identity() | {"objective": objective}
        preset = self._attack(attack)
        parents = {
            "model": model,
            "estimators": self.estimators(defense, norm, seed, recipe),
            "crafted": self.craft([model], defense, norm, preset, eps, "transfer"),
        }
        spec = {
            "norm": norm,
            "eps": eps,
            "defense": defense,
            "attack": attack,
            "rule": preset.parameters.get("rule", ""),
            "objective": objective,
            **self.sample(),
        }
        stem = f"{norm}/{defense}/{attack}-{objective}-seed{seed}"
        return self.task("measure-mi", spec, seed, stem, parents)

    def craft(
        self, models: Sequence[Task], name_of: str, norm: str, preset: AttackPreset, eps: float, goal: str
    ) -> Task:
        """Return the task for adversarial images made once, for all cells that use them.

        Args:
            models: on which they are made, more than one on their mean logits.
        """
        parameters = preset.identity(norm, eps, self.settings.attack_precision)
        name, _ = parsed(preset.name)
        if parameters.pop("rule", None):
            name = parameters["attack"].partition(":")[2].lower()
        spec = {"norm": norm, "attack": name, "goal": goal, "parameters": parameters, **self.sample()}
        first, *others = models
        stem = f"{norm}/{name}-on-{name_of}-seed{first.seed}"
        words = {"where": f"{self.data.label} {norm}", "how": f"on {name_of}"}
        parents = {"model": first, **{f"model-{index}": each for index, each in enumerate(others, 2)}}
        return self.task("craft", spec, first.seed, stem, parents, **words)

    def sample(self) -> dict[str, Any]:
        """Return the data set and the number of attacked test images, as they enter ids."""
        images = min(self.settings.n_examples or self.data.test_images, self.data.test_images)
        return {**self.data.identity, "n_examples": images}

    def task(
        self, kind: str, spec: dict[str, Any], seed: int, stem: str, parents: dict[str, Task], **words: Any
    ) -> Task:
        """A task whose id comes from ``spec``, its parents and ``seed``.

        Args:
            stem: of its result, below its kind's folder and the data set's.
            words: of its title, over those of ``spec`` and ``seed``.
        """
        spec = {"kind": kind, "format": _FORMAT, **spec}
        family = short_hash([spec, {role: task.family for role, task in parents.items()}])
        spec["parents"] = {role: task.id for role, task in parents.items()}
        identity = short_hash([spec, seed])
        how = TASK_KINDS[kind]
        path = Path(how.folder) / self.data.label / f"{stem}-{identity}{how.suffix}"
        return Task(
            kind=kind,
            title=how.title.format(**{**spec, "seed": seed, **words}),
            spec=spec,
            seed=seed,
            id=identity,
            family=family,
            path=path,
            data=self.data,
            parents=parents,
        )
