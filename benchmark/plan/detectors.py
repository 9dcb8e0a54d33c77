"""From a protocol to the tasks of detectors: their networks, thresholds, the attacks, and the cells."""

from typing import Any

from robustness_bench.attacks.registry import attack_presets
from robustness_bench.benchmark.data import Located
from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.plan.protocol import Protocol, Settings
from robustness_bench.benchmark.plan.tasks import Planner, Task, make_plan
from robustness_bench.defenses.detectors.registry import (
    DetectorPreset,
    SystemPreset,
    detector_presets,
    part_presets,
    system_presets,
)

ADAPTIVE = "adaptive"
"""The name of the adaptive attack in records."""
_ADAPTIVE_CLASS = "attacks.adaptive:AdaptiveDetection"
MODEL, CALIBRATION, PART = "model", "calibration:", "part:"
"""Roles of parents; a name follows the last two."""
_ATTACKER = 1000  # a grey-box attacker's networks have seeds from this one on


def make_whole_plan(protocol: Protocol, data: dict[str, Located]) -> list[Task]:
    """Return a run's tasks: all cells of defenses and of detectors and all they need, each once."""
    tasks = [*make_plan(protocol, data), *make_detection_plan(protocol, data)]
    return list({task.id: task for task in tasks}.values())


def make_detection_plan(protocol: Protocol, data: dict[str, Located]) -> list[Task]:
    """Return the tasks of every system of detectors: natural images, each attack at each κ, adaptive attacks.

    Raises:
        BenchError: a system has no recipe for a data set; the classifier's epoch would be selected.
    """
    tasks: dict[str, Task] = {}
    for settings in protocol.settings:
        for seed in range(protocol.seeds):
            for name in protocol.detectors:
                planner = _DetectionPlanner(settings, data[settings.dataset], protocol.norms[0], seed)
                for cell in planner.cells(system_presets()[name]):
                    tasks.update({task.id: task for task in cell.lineage()})
    return list(tasks.values())


class _DetectionPlanner:
    """The tasks of one data set and seed."""

    def __init__(self, settings: Settings, data: Located, norm: str, seed: int) -> None:
        _check_selection(settings)
        self.detection, self.data, self.seed = settings.detection, data, seed
        self.dataset = settings.dataset
        guarded = {key: getattr(self.detection, key) for key in ("model", "training", "n_examples")}
        self.planner = Planner(settings.model_copy(update=guarded), data)
        self.model = self.planner.train(self.detection.classifier, norm, seed)

    def cells(self, system: SystemPreset) -> list[Task]:
        if self.dataset not in system.detectors:
            known = ", ".join(system.detectors)
            raise BenchError(f"{system.name} has no recipe for {self.dataset}; it knows {known}")
        cells = [self.detect(system, "natural", "none", 0.0, None)]
        for confidence in sorted(map(float, set(self.detection.confidences))):
            for attack in self.detection.attacks:
                crafted = self.craft(attack, confidence)
                cells.append(self.detect(system, "oblivious", attack, confidence, crafted))
        if system.adaptive:
            for setting in self.detection.adaptive:
                crafted = self.adapt(system, setting)
                confidence = self.detection.adaptive_attack.confidence
                cells.append(self.detect(system, setting, ADAPTIVE, confidence, crafted))
        return cells

    def part(self, name: str, seed: int) -> Task:
        """Return the task that trains a network that detectors share."""
        preset = part_presets(self.dataset)[name]
        recipe = dict(preset.recipe)
        recipe["epochs"] = self.detection.part_epochs or recipe["epochs"]
        spec = {
            "network": preset.identity(),
            "recipe": recipe,
            "training": self._held_out(),
            **self.data.identity,
        }
        return self.planner.task("part", spec, seed, f"{name}-seed{seed}", {}, part=name)

    def calibrate(self, name: str, seed: int) -> Task:
        """Return the task that sets a detector's threshold, on natural images not used in training."""
        preset = detector_presets()[name]
        if not preset.parts:  # then nothing of it is the attacker's own, and it is one task, of one path
            seed = self.seed
        gates = {part: part_presets(self.dataset)[part].gate for part in preset.parts}
        spec = {
            "identity": preset.identity(),
            "rate": preset.rates[self.dataset],
            "images": preset.images,
            "gates": gates,
            "training": self._held_out(),
            **self.data.identity,
        }
        parents = {MODEL: self.model, **self._parts(preset, seed)}
        words = {"detector": name, "of_parts": seed}
        return self.planner.task("calibrate", spec, self.seed, f"{name}-seed{seed}", parents, **words)

    def craft(self, attack: str, confidence: float) -> Task:
        """Return the task for images that fool the classifier by ``confidence``; EAD's rules share a run."""
        parameters = attack_presets("strict")[attack].identity("l2", 0.0)
        name = "ead" if parameters.pop("rule", None) else attack
        parameters |= {**getattr(self.detection.parameters, name).identity(), "confidence": float(confidence)}
        spec = {
            "norm": "l2",
            "attack": name,
            "goal": "untargeted",
            "parameters": parameters,
            **self.planner.sample(),
        }
        stem = f"detectors/{name}-k{confidence:g}-on-{self.detection.classifier}-seed{self.seed}"
        words = {"where": self.data.label, "how": f"at κ = {confidence:g}"}
        return self.planner.task("craft", spec, self.seed, stem, {MODEL: self.model}, **words)

    def adapt(self, system: SystemPreset, setting: str) -> Task:
        """Return the task for images that fool a whole system, the defending one or the attacker's copy."""
        seed = self.seed if setting == "white" else _ATTACKER + self.seed
        images = self.data.test_images
        spec = {
            "setting": setting,
            "parameters": {"attack": _ADAPTIVE_CLASS, **self.detection.adaptive_attack.identity()},
            **self._described(system),
            **self.data.identity,
            "n_examples": min(self.detection.adaptive_examples or images, images),
        }
        stem, parents = f"detectors/{setting}-{system.name}-seed{self.seed}", self._parents(system, seed)
        return self.planner.task("adapt", spec, self.seed, stem, parents, system=system.name)

    def detect(
        self, system: SystemPreset, setting: str, attack: str, confidence: float, crafted: Task | None
    ) -> Task:
        """Return a cell: a system's verdicts on natural or adversarial images."""
        rule = attack.removeprefix("ead-") if attack.startswith("ead-") else ""
        n_examples = self.data.test_images if crafted is None else crafted.spec["n_examples"]
        spec = {
            "system": system.name,
            "setting": setting,
            "attack": attack,
            "rule": rule,
            "confidence": confidence,
            "parameters": {} if crafted is None else crafted.spec["parameters"],
            "classifier": self.detection.classifier,
            **self._described(system),
            **self.data.identity,
            "n_examples": n_examples,
        }
        name = attack if setting in ("natural", "white") else f"{attack}-{setting}"
        if setting == "oblivious":
            name = f"{attack}-k{confidence:g}"
        shown = name.replace("-k", " at κ = ") if setting == "oblivious" else f"{attack} ({setting})"
        parents = self._parents(system, self.seed)
        if crafted is not None:
            parents["crafted"] = crafted
        stem = f"{system.name}/{name}-seed{self.seed}"
        return self.planner.task("detect", spec, self.seed, stem, parents, shown=shown)

    def _described(self, system: SystemPreset) -> dict[str, Any]:
        names = system.detectors[self.dataset]
        identities = {name: detector_presets()[name].identity() for name in names}
        return {"detectors": identities, "reformer": system.reformer}

    def _parents(self, system: SystemPreset, seed: int) -> dict[str, Task]:
        names = system.detectors[self.dataset]
        parents = {MODEL: self.model}
        if system.reformer:
            parents[PART + system.reformer] = self.part(system.reformer, seed)
        for name in names:
            parents[CALIBRATION + name] = self.calibrate(name, seed)
            parents |= self._parts(detector_presets()[name], seed)
        return parents

    def _parts(self, preset: DetectorPreset, seed: int) -> dict[str, Task]:
        return {PART + name: self.part(name, seed) for name in preset.parts}

    def _held_out(self) -> dict[str, Any]:
        """Return which images everything here is trained on, and which are held out for thresholds."""
        training = self.detection.training
        kept = {"train_limit": training.train_limit, "holdout": training.holdout}
        return {**kept, "selection": "last", "augment": "none"}


def _check_selection(settings: Settings) -> None:
    """Reject a classifier whose epoch is chosen on held-out images: thresholds would be too strict."""
    if settings.detection.training.selection == "best" and not settings.weights:
        raise BenchError(
            'selection "best" would choose the classifier of detectors on the held-out images that set their '
            'thresholds: set detection.training.selection to "last"'
        )
