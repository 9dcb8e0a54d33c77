"""The kinds of tasks: how each is named, run, estimated, checked and archived.

The work itself is in packages that planning must not import, or that need torch. It is named as
``module:function`` and imported when it is called (``attacks.class_names.load``).
"""

from dataclasses import dataclass

_COST, _STORE = "benchmark.plan.cost", "benchmark.store"
_MEASURE, _TRAIN, _FACTS = "benchmark.measure", "benchmark.train", "benchmark.exchange"


@dataclass(frozen=True, kw_only=True)
class TaskKind:
    """One kind of task.

    Attributes:
        name: part of every spec, and so of every id.
        title: what a user reads; filled in from the spec, ``seed`` and what the planner adds.
        folder: of the store, in which its results lie.
        parts: of the path of its result in the store, the name included.
        suffix: of its result.
        run: performs the task: (task, context, advance) -> None.
        passes: its cost: (task, share of the images that withstand) -> ``cost.Passes``.
        done: whether a store has its result: (path of the result, task) -> bool.
        failed: keeps the traceback of a failure: (path, task, environment, traceback) -> None; empty: nothing
            is kept.
        archived: checks a result from another machine: (path, name in the store) -> ``facts.Facts``.
        result: whether it is a cell; all other tasks run because a cell needs them.
        afterwards: whether it waits until all cells are done, and never causes a model to be trained again.
        chain: whether it is a training besides those of the cells, which one more worker can do in parallel.
        given: whether it brings given weights, for which nothing is trained.
        sharded: whether it is an attack whose images can be split between workers.
        seeded: whether the name of its file ends with its seed.
        cell: how error messages name a cell; filled in as ``title`` is.
        slower: how many times slower than a timed batch it may be, see ``cost``.
    """

    name: str
    title: str
    folder: str
    run: str
    passes: str
    parts: int = 3
    suffix: str = ".safetensors"
    done: str = f"{_STORE}.cards:is_kept"
    failed: str = ""
    archived: str = f"{_FACTS}.facts:card_facts"
    result: bool = False
    afterwards: bool = False
    chain: bool = False
    given: bool = False
    sharded: bool = False
    seeded: bool = True
    cell: str = ""
    # Small batches, other work beside it, and an attack's own arithmetic: in results/digits AutoAttack takes
    # twice, FWA four times as long per pass as PGD.
    slower: float = 4.0


_ALL = (
    TaskKind(
        name="train",
        title="{dataset} train {network}, seed {seed}",
        folder="checkpoints",
        run=f"{_TRAIN}.defenses:train",
        passes=f"{_COST}:training_passes",
        slower=2.5,  # the weights' gradients and the held-out images
    ),
    TaskKind(
        name="load",
        title="{dataset} load {source} as {defense}",
        folder="checkpoints",
        run=f"{_STORE}.models:import_weights",
        passes=f"{_COST}:no_passes",
        given=True,
        seeded=False,
    ),
    TaskKind(
        name="estimators",
        title="{dataset} train MI {network}, seed {seed}",
        folder="checkpoints",
        run=f"{_TRAIN}.defenses:train_estimators",
        passes=f"{_COST}:estimators_passes",
        slower=2.5,
    ),
    TaskKind(
        name="part",
        title="{dataset} train {part}, seed {seed}",
        folder="checkpoints",
        run=f"{_TRAIN}.detectors:fit_part",
        passes=f"{_COST}:part_passes",
        chain=True,
    ),
    TaskKind(
        name="calibrate",
        title="{dataset} calibrate {detector}, seed {of_parts}",
        folder="calibrations",
        run=f"{_TRAIN}.detectors:calibrate",
        passes=f"{_COST}:calibration_passes",
        archived=f"{_FACTS}.facts:calibration_facts",
        seeded=False,  # its name has the seed of its parts, which may be an attacker's
    ),
    TaskKind(
        name="craft",
        title="{where} craft {attack} {how}, seed {seed}",
        folder="crafted",
        parts=4,
        run=f"{_MEASURE}.attacks:craft",
        sharded=True,
        passes=f"{_COST}:attack_passes",
        archived=f"{_FACTS}.facts:crafted_facts",
    ),
    TaskKind(
        name="adapt",
        title="{dataset} attack {system} adaptively ({setting}), seed {seed}",
        folder="crafted",
        parts=4,
        run=f"{_MEASURE}.detectors:adapt",
        sharded=True,
        passes=f"{_COST}:adaptive_passes",
        archived=f"{_FACTS}.facts:adapted_facts",
    ),
    TaskKind(
        name="evaluate",
        title="{dataset} {norm} {threat}-box {defense} × {attack}{at}, seed {seed}",
        folder="records",
        parts=6,
        suffix=".parquet",
        run=f"{_MEASURE}.attacks:evaluate",
        sharded=True,
        passes=f"{_COST}:attack_passes",
        done=f"{_STORE}.cells:is_kept",
        failed=f"{_STORE}.cells:keep_failure",
        archived=f"{_FACTS}.facts:record_facts",
        result=True,
        cell="{norm} {threat}-box {defense} × {attack}, seed {seed}",
    ),
    TaskKind(
        name="measure-mi",
        title="{dataset} {norm} MI ({objective}) of {defense} under {attack}, seed {seed}",
        folder="mi",
        parts=5,
        suffix=".parquet",
        run=f"{_MEASURE}.information:measure_mi",
        passes=f"{_COST}:attack_passes",
        done=f"{_STORE}.information:is_kept",
        archived=f"{_FACTS}.facts:estimates_facts",
        result=True,
    ),
    TaskKind(
        name="detect",
        title="{dataset} {system} × {shown}, seed {seed}",
        folder="detections",
        parts=4,
        suffix=".parquet",
        run=f"{_MEASURE}.detectors:detect",
        passes=f"{_COST}:detection_passes",
        done=f"{_STORE}.detections:is_kept",
        failed=f"{_STORE}.detections:keep_failure",
        archived=f"{_FACTS}.facts:detection_facts",
        result=True,
        cell="{system} × {attack} ({setting}) at κ = {confidence:g}, seed {seed}",
    ),
    TaskKind(
        name="diagnose",
        title="{dataset} {norm} diagnose {defense} ({told}), seed {seed}",
        folder="diagnoses",
        suffix=".json",
        run=f"{_MEASURE}.gradients:diagnose",
        passes=f"{_COST}:diagnosis_passes",
        done=f"{_STORE}.diagnoses:is_covered",
        archived=f"{_FACTS}.facts:diagnosis_facts",
        afterwards=True,
    ),
)
TASK_KINDS = {kind.name: kind for kind in _ALL}


def kinds_in(folder: str) -> dict[str, TaskKind]:
    """Return the kinds whose results are in a folder of a store, by name."""
    return {name: kind for name, kind in TASK_KINDS.items() if kind.folder == folder}
