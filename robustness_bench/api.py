"""The benchmark as a library: attack a model in memory, run a protocol, read the records of a folder."""

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from robustness_bench.attacks.registry import BOUNDED, NORMS, AttackPreset, attack_presets
from robustness_bench.benchmark.errors import BenchError, unknown
from robustness_bench.benchmark.mirror import local_folder, mirrored
from robustness_bench.benchmark.report.rendering.formats import to_html, to_latex, to_text
from robustness_bench.benchmark.report.rendering.table import Cell, Column, Row, Table
from robustness_bench.benchmark.run.work import Finished
from robustness_bench.benchmark.statistics import wilson, withstand_all
from robustness_bench.benchmark.store.cells import Record, read_records, robust_rows

if TYPE_CHECKING:
    from torch import Tensor, nn

WORST = "worst"
_SIGNS = {"linf": "L∞", "l2": "L2"}


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The outcomes of attacks on a model, per image. Printed, or shown in a notebook, it is its table.

    Attributes:
        images: a row per attack and image: ``attack``, ``image`` (its index in x), ``label``,
            ``clean_prediction``, ``adversarial_prediction``, the norms ``linf``, ``l2`` and ``l1`` of the
            perturbation (0 where the attack found nothing), ``forwards`` and ``backwards`` (passes per
            image, the mean over its batch), ``robust`` (nothing within ε fooled the model, and the natural
            image is classified correctly).
        accuracy: attack -> share of the images that are robust, in %; "none" is natural accuracy, "worst"
            counts images that withstood every attack bounded by ε in the norm.
        table: the same with 95 % Wilson intervals and costs.
        adversarial: attack -> (N, C, H, W) float32 on the CPU, the natural image where the attack found
            nothing; empty unless requested.
    """

    images: pd.DataFrame
    accuracy: dict[str, float]
    table: Table
    adversarial: "dict[str, Tensor]" = field(default_factory=dict, repr=False)

    def to_latex(self) -> str:
        """The table as a LaTeX float."""
        return to_latex(self.table)

    def __str__(self) -> str:
        return to_text(self.table)

    def _repr_html_(self) -> str:
        return to_html(self.table)


def evaluate(
    model: "nn.Module",
    x: "Tensor | NDArray[np.float32]",
    y: "Tensor | ArrayLike",
    *,
    eps: float,
    norm: str = "linf",
    attacks: Sequence[str] = ("pgd-40", "aa"),
    attack_set: str = "strict",
    seed: int = 0,
    batch_size: int = 0,
    keep_images: bool = False,
) -> Evaluation:
    """Attack ``model`` on the images ``x`` with named attacks. Nothing is written.

    The model runs on the device of its weights, in evaluation mode, and is left unchanged. An image's outcome
    depends on the image, its index in ``x`` and ``seed``, not on the batches. There is no check for hidden
    gradients: `bench run` does that.

    Args:
        model: maps images to logits (N, classes).
        x: (N, C, H, W) float32 in [0, 1].
        y: (N,) whole numbers, the classes.
        eps: the budget, in pixel units.
        norm: "linf" or "l2".
        attacks: names of `bench list attacks`; natural accuracy is always measured.
        attack_set: the attacks' parameters, "strict" or "paper".
        batch_size: images per batch; 0 = 128 on a CPU, 1024 on a GPU, halved where memory runs out.
        keep_images: keep every attack's images.

    Raises:
        BenchError: an unknown attack, norm or set, ε that is not positive and finite, labels beyond the
            model's classes, or an argument of another type.
        ValueError: ``x`` or ``y`` are not as described.
        AttackError: the model's output is not finite logits.
    """
    import torch

    from robustness_bench.attacks.base import Counted, check_images, frozen
    from robustness_bench.benchmark.batching import Batches
    from robustness_bench.benchmark.context import Context
    from robustness_bench.benchmark.measure.attacks import Sample, rows_of

    _check_types(model, eps, attacks, seed, batch_size)
    chosen = _chosen(attacks, norm, attack_set)
    held_x, held_y = torch.as_tensor(x), torch.as_tensor(y)
    held_y = held_y if held_y.is_floating_point() else held_y.long()
    check_images(held_x, held_y)
    if not len(held_x):
        raise BenchError("there is no image to attack: x is empty")
    device = next((weight.device for weight in model.parameters()), held_x.device)
    with frozen(model), torch.no_grad():
        classes = Counted(model)(held_x[:1].to(device)).shape[1]
    if held_y.min() < 0 or held_y.max() >= classes:
        raise BenchError(
            f"labels run from {held_y.min()} to {held_y.max()}, the model's classes from 0 to {classes - 1}"
        )
    context = Context(out=Path(), device=str(device), batch_size=batch_size, threads=torch.get_num_threads())
    batches = Batches(context)
    frames, adversarial = {}, {}
    for names in _runs(chosen, norm, eps):
        attack = chosen[names[0]].build(norm, eps)
        rules = {name: chosen[name].parameters.get("rule", "") for name in names}

        def work(
            rows: slice, attack: Any = attack, rules: dict[str, str] = rules
        ) -> dict[str, tuple[dict[str, NDArray[Any]], "Tensor"]]:
            ids = torch.arange(rows.start, rows.stop, device=device)
            piece = Sample(ids, held_x[rows].to(device), held_y[rows].to(device))
            outcomes = attack.run(model, piece.x, piece.y, ids=piece.ids, seed=seed)
            return {
                name: (rows_of(piece, found), found.x_adv.cpu() if keep_images else held_x[:0])
                for name, found in ((name, outcomes[rule]) for name, rule in rules.items())
            }

        parts = [found for _, found in batches.pieces(len(held_x), work)]
        for name in names:
            mine = [part[name] for part in parts]
            columns = {key: np.concatenate([part[key] for part, _ in mine]) for key in mine[0][0]}
            columns["robust"] = robust_rows(columns, kind=chosen[name].kind, norm=norm, eps=eps)
            frame = pd.DataFrame({"attack": name, **columns})
            frames[name] = frame.rename(columns={"sample": "image"})
            if keep_images:
                adversarial[name] = torch.cat([images for _, images in mine])
    images = pd.concat([frames[name] for name in chosen], ignore_index=True)
    bounded = [name for name, preset in chosen.items() if preset.kind in BOUNDED]
    robust = {name: _of(images, name) for name in chosen}
    if bounded:
        numbers = {name: each["image"].to_numpy() for name, each in images.groupby("attack")}
        robust[WORST] = withstand_all((numbers[name], robust[name]) for name in ["none", *bounded])
    return Evaluation(
        images=images,
        accuracy={name: 100 * float(each.mean()) for name, each in robust.items()},
        table=_table(images, robust, chosen, norm, eps),
        adversarial=adversarial,
    )


def run(
    protocol: Path | str | Mapping[str, Any],
    *,
    out: Path | str = "results",
    data_dir: Path | str = "data",
    device: str = "auto",
    workers: int = 0,
    batch_size: int = 0,
    shard_size: int = 0,
    download: bool = False,
    engine: str = "local",
    address: str = "",
    engine_options: Mapping[str, Any] | None = None,
) -> Finished:
    """Do what `bench run --config` does: train missing models, attack them, write records and tables.

    Finished work in ``out`` is not repeated; after a kill, the same call resumes. Results name the command
    that does the same; of a mapping, its ``--config`` is the protocol that is kept in ``out``.

    Args:
        protocol: a TOML file, or a mapping with the same keys, such as ``{"defenses": ["trades"]}``.
        out: folder of the results, or a URL such as s3://bucket/results.
        data_dir: folder of the data set's files.
        device: "auto", "cpu" or "cuda".
        workers: tasks at once; 0 = one per GPU, or per CPU core up to 4.
        batch_size: images per batch in evaluation; 0 = automatic.
        shard_size: an attack on more images is split into tasks of so many; 0 = automatic.
        download: download a missing data set.
        engine: where tasks run: "local", "ray" or "slurm".
        address: of a Ray cluster.
        engine_options: what each worker asks a cluster for, such as ``{"num_gpus": 1}``.

    Returns:
        The tables of accuracies, and title -> traceback of failed tasks.

    Raises:
        BenchError: an error that the user can fix, in one line; finished work is kept.
    """
    from robustness_bench.benchmark.context import Context
    from robustness_bench.benchmark.plan.detectors import make_whole_plan
    from robustness_bench.benchmark.plan.protocol import load_protocol
    from robustness_bench.benchmark.run import work as running
    from robustness_bench.benchmark.run.engines.choice import choose_engine
    from robustness_bench.benchmark.store.folder import protocol_file
    from robustness_bench.benchmark.submit.board.entries import publish

    _check_counts(workers=workers, batch_size=batch_size, shard_size=shard_size)
    checked = load_protocol(protocol if isinstance(protocol, Mapping) else Path(protocol))
    folder = local_folder(out)
    options = [f"{key}={json.dumps(value)}" for key, value in (engine_options or {}).items()]
    where = choose_engine(engine, address, options, folder)
    with mirrored(folder):
        work = running.prepare(checked, folder, Path(data_dir), download=download, make=make_whole_plan)
        config = protocol_file(folder, checked) if isinstance(protocol, Mapping) else protocol
        said = {"--config": config, "--out": out, "--data-dir": data_dir}
        command = shlex.join(["bench", "run", *(str(word) for pair in said.items() for word in pair)])
        chosen = where.device(device) if work.todo else "cpu"  # a cluster is asked only for work
        context = Context(out=folder, device=chosen, batch_size=batch_size, threads=1, command=command)
        work = work.in_shards(shard_size, context)
        return running.run(work, context, publish, workers=workers, live=False, engine=where)


def records(folder: Path | str) -> list[Record]:
    """Return every evaluated cell of a store, a folder or its URL: its settings, and a row per image.

    Raises:
        BenchError: the folder does not exist, or a record is damaged.
    """
    store = local_folder(folder)
    with mirrored(store):
        if not store.is_dir():
            raise BenchError(f"there is no folder {folder}")
        return read_records(store)


def _check_types(model: Any, eps: Any, attacks: Any, seed: Any, batch_size: Any) -> None:
    """Raise BenchError for an argument of ``evaluate`` that is not what it must be."""
    from torch import nn

    if not isinstance(model, nn.Module):
        raise BenchError(f"model must be a torch.nn.Module, got {type(model).__name__}: wrap it in one")
    if not isinstance(eps, Real) or isinstance(eps, bool) or not 0 < float(eps) < float("inf"):
        raise BenchError(f"ε must be a positive finite number, got {eps!r}")
    if isinstance(attacks, str) or not isinstance(attacks, Iterable):
        raise BenchError(f"attacks must be a list of names, got {attacks!r}")
    _check_counts(seed=seed, batch_size=batch_size)


def _check_counts(**numbers: Any) -> None:
    for name, value in numbers.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 0:
            raise BenchError(f"{name} must be a whole number from 0, got {value!r}")


def _chosen(names: Iterable[str], norm: str, attack_set: str) -> dict[str, AttackPreset]:
    """Return the presets by name, natural accuracy first."""
    if norm not in NORMS:
        raise unknown("norm", str(norm), NORMS)
    try:
        presets = attack_presets(attack_set)
    except ValueError as error:
        raise BenchError(str(error)) from error
    for name in names:
        if name not in presets:
            raise unknown("attack", str(name), presets)
        if norm not in presets[name].norms:
            raise BenchError(f"{name} works in {', '.join(presets[name].norms)}, got norm {norm!r}")
    return {name: presets[name] for name in dict.fromkeys(["none", *names])}


def _runs(chosen: Mapping[str, AttackPreset], norm: str, eps: float) -> list[list[str]]:
    """Return the names by run: attacks that differ only in their rule share one."""
    runs: dict[str, list[str]] = {}
    for name, preset in chosen.items():
        same = {key: value for key, value in preset.identity(norm, eps).items() if key != "rule"}
        runs.setdefault(json.dumps(same, sort_keys=True, default=repr), []).append(name)
    return list(runs.values())


def _of(images: pd.DataFrame, attack: str) -> NDArray[np.bool_]:
    return images.loc[images["attack"] == attack, "robust"].to_numpy()


def _table(
    images: pd.DataFrame,
    robust: Mapping[str, NDArray[np.bool_]],
    chosen: Mapping[str, AttackPreset],
    norm: str,
    eps: float,
) -> Table:
    group = f"{_SIGNS[norm]} (ε = {eps:.4g})"
    passes = images.groupby("attack")[["forwards", "backwards"]].mean()
    rows = []
    for name, each in robust.items():
        low, high = wilson(int(each.sum()), len(each))
        cost = [f"{passes[key][name]:.1f}" if name in chosen else "" for key in ("forwards", "backwards")]
        texts = [f"{100 * each.mean():.1f}", f"{100 * low:.1f} – {100 * high:.1f}", *cost]
        label = chosen[name].label if name in chosen else "Worst"
        kind = WORST if name not in chosen else "natural" if name == "none" else "attack"
        rows.append(Row(group=kind, label=label, cells=tuple(Cell(text=text) for text in texts)))
    n = len(robust["none"])
    caption = f"Accuracy in % on {n} images, and what 95 % of other images would give (Wilson)."
    if any(preset.kind == "minimum-norm" for preset in chosen.values()):
        caption += " Minimum-norm attacks: only images within ε count."
    if WORST in robust:
        caption += " Worst: withstood every attack within ε of the norm, image by image."
    return Table(
        name="evaluation",
        title="White box",
        caption=f"{caption} Passes per image. Not diagnosed for hidden gradients.",
        measure="accuracy",
        columns=tuple(
            Column(group=group, label=text) for text in ("Accuracy", "95 %", "Forward", "Backward")
        ),
        rows=tuple(rows),
        heading="Attack",
    )
