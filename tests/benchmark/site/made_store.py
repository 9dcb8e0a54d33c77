"""Stores with made-up figures: real record files and cards of defenses and attacks that nobody has."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustness_bench.benchmark.data import DATASETS, Located
from robustness_bench.benchmark.files import short_hash
from robustness_bench.benchmark.plan.probe import VERSION
from robustness_bench.benchmark.plan.protocol import load_protocol
from robustness_bench.benchmark.plan.tasks import Task
from robustness_bench.benchmark.store.cells import write_record
from robustness_bench.benchmark.store.gallery import Examples, examples_of, write_examples

ENVIRONMENT = {"hardware": "none", "packages": {"torch": "0"}, "revision": "0" * 40}
EPS = {"linf": 0.125, "l2": 0.5}


class Store:
    """Writes records of one made-up data set; every image is of class 1, a fooled model says 0."""

    def __init__(self, folder: Path, dataset: str = "toys", images: int = 20) -> None:
        self.folder, self.dataset, self.images = folder, dataset, images
        self.data = Located(DATASETS["digits"].info, dataset, "d" * 64, 1, images, Path())
        self._training = load_protocol().settings[0].training.identity()

    def model(self, defense: str, seed: int, *, norm: str = "linf", card: bool = True, **recipe: Any) -> Task:
        """A trained model, with its card; ``recipe`` overrides its training."""
        spec = {
            "kind": "train",
            "model": "resnet-18",
            "width": 8,
            "defense": {"defense": f"somewhere:{defense}"},
            "training": self._training | {"epochs": 4} | recipe,
            "dataset": self.dataset,
            "data": self.data.hash,
            "norm": norm,
            "eps": EPS[norm],
            "parents": {},
        }
        task = self._task("train", spec, seed, Path("checkpoints") / "made-up", ".safetensors", {})
        if card:
            self._write_card(task, defense)
        return task

    def cell(
        self,
        model: Task,
        defense: str,
        attack: str,
        stood: int | NDArray[np.bool_],
        *,
        kind: str = "budget",
        threat: str = "white",
        eps: float = 0.0,
        distance: float = 0.0,
        flags: Sequence[str] | None = (),
        error: str = "",
        parameters: dict[str, Any] | None = None,
    ) -> Task:
        """A record of which the first ``stood`` images, or those of a mask, keep their class.

        Args:
            distance: of the images that fooled.
            flags: more of the model, under this norm at this ε; None: this cell has it not diagnosed.
        """
        norm = model.spec["norm"]
        spec = {
            "kind": "evaluate",
            "threat": threat,
            "norm": norm,
            "eps": eps or EPS[norm],
            "defense": defense,
            "attack": attack,
            "kind_of_attack": kind,
            "parameters": parameters or {"attack": f"somewhere:{attack}", "norm": norm},
            "dataset": self.dataset,
            "data": self.data.hash,
            "n_examples": self.images,
            "parents": {"model": model.id},
        }
        folder = Path("records", "made-up", norm, threat, short_hash(defense))
        task = self._task("evaluate", spec, model.seed, folder, ".parquet", {"model": model})
        rows = {} if error else self._rows(stood, norm, distance, attack)
        write_record(
            self.folder / task.path,
            task,
            rows,
            environment=ENVIRONMENT,
            seconds=1.0,
            error=error,
        )
        if flags is not None:
            self._write_diagnosis(model, task.spec, flags)
        return task

    def examples(self, task: Task, images: int = 4, size: int = 8, shift: float = 0.125) -> None:
        """Kept images of a cell: grey ramps, the attack adds ``shift``; the last one is fooled."""
        ramp = np.arange(size * size).reshape(1, 1, size, size) % 128
        x = np.repeat(ramp, images, 0).astype(np.uint8)
        told = np.ones(images, dtype=np.int64)
        fooled = np.where(np.arange(images) == images - 1, 0, 1)
        kept = Examples(x, (x / 255.0 + shift).astype(np.float32), told, told, fooled)
        write_examples(examples_of(self.folder / task.path), kept)

    def _rows(
        self, stood: int | NDArray[np.bool_], norm: str, distance: float, attack: str
    ) -> dict[str, NDArray[Any]]:
        n = self.images
        kept = np.arange(n) < stood if isinstance(stood, int) else stood
        ones = np.ones(n, dtype=int)
        natural = attack == "none"
        return {
            "sample": np.arange(n),
            "label": ones,
            "clean_prediction": np.where(kept, 1, 0) if natural else ones,
            "adversarial_prediction": np.where(kept, 1, 0),
            **{each: np.zeros(n) for each in ("linf", "l2", "l1") if each != norm},
            norm: np.where(kept, 0.0, distance),
            "forwards": np.full(n, 1.0 if natural else 12.0),
            "backwards": np.full(n, 0.0 if natural else 10.0),
        }

    def _task(
        self, kind: Any, spec: dict[str, Any], seed: int, folder: Path, suffix: str, parents: dict[str, Task]
    ) -> Task:
        family = short_hash(
            [{k: v for k, v in spec.items() if k != "parents"}, {k: t.family for k, t in parents.items()}]
        )
        identity = short_hash([spec, seed])
        return Task(
            kind=kind,
            title=kind,
            spec=spec,
            seed=seed,
            id=identity,
            family=family,
            path=folder / f"seed{seed}-{identity}{suffix}",
            data=self.data,
            parents=parents,
        )

    def _write_diagnosis(self, model: Task, cell: dict[str, Any], flags: Sequence[str]) -> None:
        spec = {
            "kind": "diagnose",
            "probe": {"version": VERSION, "images": 20, "attacks": {"images": 20}},
            **{key: cell[key] for key in ("norm", "eps", "dataset", "data", "n_examples", "parents")},
        }
        where = Path("diagnoses", "made-up")
        task = self._task("diagnose", spec, model.seed, where, ".json", {"model": model})
        path = self.folder / task.path
        before = json.loads(path.read_text())["flags"] if path.exists() else []
        story = {"id": task.id, "seed": model.seed, "spec": spec, "flags": sorted({*before, *flags})}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(story))

    def _write_card(self, task: Task, defense: str) -> None:
        history = [
            {"held_out_natural": 40.0 + 10 * epoch, "held_out_pgd": 5.0 * epoch, "lr": 0.1, "seconds": 1.0}
            for epoch in range(task.spec["training"]["epochs"])
        ]
        card = {
            "format": 1,
            "id": task.id,
            "seed": task.seed,
            "spec": task.spec,
            "sha256": short_hash([defense, task.seed]) * 5,
            "history": history,
            "epoch": len(history),
            "environment": ENVIRONMENT,
            "seconds": 10.0 + len(defense) + task.seed,
        }
        path = (self.folder / task.path).with_suffix(".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(card))


def write_large(
    folder: Path, *, defenses: int, attacks: int, seeds: int, images: int, dataset: str = "toys"
) -> int:
    """A store of defenses × attacks × seeds records, natural accuracy among the attacks; their number."""
    store, rng = Store(folder, dataset, images), np.random.default_rng(0)
    names = ["none", *(f"attack-{number:02d}" for number in range(1, attacks))]
    for number in range(defenses):
        defense, level = f"defense-{number:03d}", 0.2 + 0.5 * number / defenses
        for seed in range(seeds):
            model = store.model(defense, seed)
            for place, attack in enumerate(names):
                share = 0.9 if attack == "none" else level + 0.2 * place / attacks
                kind = "natural" if attack == "none" else "budget"
                store.cell(model, defense, attack, rng.random(images) < share, kind=kind)
    return defenses * attacks * seeds
