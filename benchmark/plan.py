"""From a protocol to tasks: what depends on what, each with an id made of all that decides its result."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from attacks.registry import AttackPreset, attack_presets
from benchmark.atomic import short_hash
from benchmark.datasets import Located
from benchmark.diagnostics import PROBE
from benchmark.protocol import Protocol, Settings
from defenses.registry import defense_presets

Kind = Literal["train", "estimators", "diagnose", "craft", "evaluate"]
_FORMAT = 2  # raise it when code changes what a finished task means


@dataclass(frozen=True, kw_only=True)
class Task:
    """One piece of work. Picklable; holds no path of this machine but the data's folder.

    Attributes:
        spec: all that decides the result, JSON; the ids of its parents are in it.
        id: hash of ``spec`` and ``seed``.
        family: the same without any seed, so that a family is one line of the results.
        parents: role -> task.
        data: where the decoded images lie; decides nothing.
    """

    kind: Kind
    title: str
    spec: dict[str, Any]
    seed: int
    id: str
    family: str
    path: Path
    data: Located = field(repr=False)
    parents: dict[str, "Task"] = field(default_factory=dict, repr=False)

    def lineage(self) -> Iterator["Task"]:
        """Everything that must exist before this task can run, parents first, then itself."""
        for parent in self.parents.values():
            yield from parent.lineage()
        yield self


def make_plan(protocol: Protocol, data: dict[str, Located]) -> list[Task]:
    """Every cell's evaluation and all it needs, each once, parents before children.

    Args:
        data: data set name -> where it is.
    """
    tasks: dict[str, Task] = {}
    for settings in protocol.settings:
        planner = _Planner(settings, data[settings.dataset])
        for seed in range(protocol.seeds):
            for norm in protocol.norms:
                for threat in protocol.threats:
                    for defense in protocol.defenses:
                        for attack, budget in _columns(settings, norm):
                            cell = planner.evaluate(threat, norm, defense, attack, budget, seed)
                            tasks.update({task.id: task for task in cell.lineage()})
    return list(tasks.values())


def _columns(settings: Settings, norm: str) -> Iterator[tuple[str, float]]:
    """(attack, ε) of every cell a defense has under one norm."""
    eps = settings.eps[norm]
    yield from ((attack, eps) for attack in settings.attacks[norm])
    yield from ((attack, eps * factor) for attack in settings.curve[norm] for factor in settings.budgets)


class _Planner:
    """Makes the tasks of one data set; equal tasks come out equal, so sharing is by id."""

    def __init__(self, settings: Settings, data: Located) -> None:
        self.settings, self.data = settings, data

    def evaluate(self, threat: str, norm: str, defense: str, attack: str, eps: float, seed: int) -> Task:
        """A cell: one defense against one attack at one ε."""
        settings, label = self.settings, self.data.label
        model = self.train(defense, norm, seed)
        preset = attack_presets(settings.attack_set)[attack]
        parents = {"model": model, "diagnosis": self.diagnose(model, defense, norm, seed)}
        if threat == "black" and attack != "none":
            surrogate, name = self.surrogate(norm), settings.surrogate.model
            parents["crafted"] = self.craft(surrogate, name, norm, preset, eps, "transfer")
        elif "rule" in preset.parameters:  # one run for all rules
            parents["crafted"] = self.craft(model, defense, norm, preset, eps, "untargeted")
        spec = {
            "threat": threat,
            "norm": norm,
            "eps": eps,
            "defense": defense,
            "attack": attack,
            "kind_of_attack": preset.kind,
            "parameters": preset.identity(norm, eps),
            **self._sample(),
        }
        folder = Path("records") / label / norm / threat / defense
        at = "" if eps == settings.eps[norm] else f" at ε = {eps:.4g}"
        title = f"{label} {norm} {threat}-box {defense} × {attack}{at}, seed {seed}"
        return self._task("evaluate", title, spec, seed, folder / f"{attack}-seed{seed}", ".parquet", parents)

    def diagnose(self, model: Task, defense: str, norm: str, seed: int) -> Task:
        """Signs that a model hides its gradients, shared by all its cells under one norm."""
        spec = {"norm": norm, "eps": self.settings.eps[norm], "probe": PROBE, **self._sample()}
        path = Path("diagnoses") / self.data.label / f"{defense}-{norm}-seed{seed}"
        title = f"{self.data.label} {norm} diagnose {defense}, seed {seed}"
        return self._task("diagnose", title, spec, seed, path, ".json", {"model": model})

    def train(self, defense: str, norm: str, seed: int) -> Task:
        """A defended model."""
        model = self.settings.model
        return self._train(defense, norm, seed, model.name, model.width)

    def surrogate(self, norm: str) -> Task:
        """The Standard-AT model that black-box attacks are crafted on."""
        surrogate = self.settings.surrogate
        width = surrogate.width or self.settings.model.width
        return self._train("standard", norm, surrogate.seed, surrogate.model, width)

    def _train(self, defense: str, norm: str, seed: int, model: str, width: int) -> Task:
        preset, settings = defense_presets()[defense], self.settings
        parents = {}
        if "estimators" in preset.requires:
            parents["estimators"] = self.estimators(norm, seed)
        spec = {
            "model": model,
            "width": width,
            "defense": preset.identity(),
            "training": asdict(settings.training),
            **self._dataset(),
        }
        name = f"{defense}-{model}"
        if preset.adversarial:  # a naturally trained model is the same for every norm
            spec |= {"norm": norm, "eps": settings.eps[norm]}
            name += f"-{norm}"
        folder = Path("checkpoints") / self.data.label
        title = f"{self.data.label} train {name}, seed {seed}"
        return self._task("train", title, spec, seed, folder / f"{name}-seed{seed}", ".safetensors", parents)

    def estimators(self, norm: str, seed: int) -> Task:
        """The two MI estimators, on the Standard-AT model of the same seed as h_θ0."""
        settings = self.settings
        spec = {
            "norm": norm,
            "eps": settings.eps[norm],
            "estimators": asdict(settings.estimators),
            "training": asdict(settings.training),
            **self._dataset(),
        }
        path = Path("checkpoints") / self.data.label / f"estimators-{norm}-seed{seed}"
        title = f"{self.data.label} train MI estimators {norm}, seed {seed}"
        parents = {"pretrained": self.train("standard", norm, seed)}
        return self._task("estimators", title, spec, seed, path, ".safetensors", parents)

    def craft(
        self, model: Task, model_name: str, norm: str, preset: AttackPreset, eps: float, goal: str
    ) -> Task:
        """Adversarial images made on ``model`` once, for every cell that shows them to a model."""
        parameters = preset.identity(norm, eps)
        name = preset.name
        if parameters.pop("rule", None):
            name = parameters["attack"].partition(":")[2].lower()
        spec = {"norm": norm, "attack": name, "goal": goal, "parameters": parameters, **self._sample()}
        path = Path("crafted") / self.data.label / norm / f"{name}-on-{model_name}-seed{model.seed}"
        title = f"{self.data.label} {norm} craft {name} on {model_name}, seed {model.seed}"
        return self._task("craft", title, spec, model.seed, path, ".safetensors", {"model": model})

    def _dataset(self) -> dict[str, Any]:
        return {"dataset": self.data.label, "data": self.data.hash}

    def _sample(self) -> dict[str, Any]:
        images = min(self.settings.n_examples or self.data.test_images, self.data.test_images)
        return {**self._dataset(), "n_examples": images}

    def _task(
        self,
        kind: Kind,
        title: str,
        spec: dict[str, Any],
        seed: int,
        stem: Path,
        suffix: str,
        parents: dict[str, Task],
    ) -> Task:
        spec = {"kind": kind, "format": _FORMAT, **spec}
        family = short_hash([spec, {role: task.family for role, task in parents.items()}])
        spec["parents"] = {role: task.id for role, task in parents.items()}
        identity = short_hash([spec, seed])
        path = stem.with_name(f"{stem.name}-{identity}{suffix}")
        return Task(
            kind=kind,
            title=title,
            spec=spec,
            seed=seed,
            id=identity,
            family=family,
            path=path,
            data=self.data,
            parents=parents,
        )
