"""`bench list`: the names that the command line accepts."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from robustness_bench.benchmark.cli.shared.labelled import Json

app = typer.Typer(
    help="List defenses, detectors, attacks, schedules, data sets, models or flags.", no_args_is_help=True
)
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Every hyperparameter, with its source.")]


def _load(files: list[Path] | None) -> None:
    from robustness_bench.defenses.plugins import load_plugin

    for path in files or ():
        load_plugin(path)


Plugin = Annotated[
    list[Path] | None,
    typer.Option("--plugin", callback=_load, help="A .py file of your own: list what it offers too."),
]


@app.command()
def defenses(as_json: Json = False, plugin: Plugin = None) -> None:
    """Defenses, with their hyperparameters."""
    from robustness_bench.defenses.registry import defense_presets

    _show([dataclasses.asdict(preset) for preset in defense_presets().values()], as_json, _defense)


@app.command()
def detectors(as_json: Json = False, plugin: Plugin = None) -> None:
    """Systems of detectors, for --defense: what they consist of, and on which data sets."""
    from robustness_bench.defenses.detectors.registry import system_presets

    _show([dataclasses.asdict(preset) for preset in system_presets().values()], as_json, _detector)


@app.command()
def attacks(as_json: Json = False, verbose: Verbose = False) -> None:
    """Attacks, and with --verbose their parameter sets side by side."""
    from robustness_bench.attacks.registry import SETS, attack_names, attack_presets

    sets = {each: attack_presets(each) for each in SETS}
    by_name = {
        name: {each: presets[name] for each, presets in sets.items() if name in presets}
        for name in attack_names()
    }
    if as_json:
        print(json.dumps([_entry(of) for of in by_name.values()], indent=1, ensure_ascii=False))
        return
    if verbose:
        for each, meaning in SETS.items():
            print(f"{each}: {meaning}")
    print(f"Also judged after being stored: {_storages()}")
    width = max(map(len, by_name))
    for name, of in by_name.items():
        one = next(iter(of.values()))
        text = f"{one.label}; {one.kind} {'/'.join(one.norms)}; set {' and '.join(of)}"
        if verbose:
            print()
        print(f"{name:<{width}}  {text}")
        if verbose:
            _side_by_side(of)


def _storages() -> str:
    from robustness_bench.attacks.registry import JPEG, STORAGES

    return "; ".join(f"NAME@{way}{'QUALITY' * (way == JPEG)}, {told}" for way, told in STORAGES.items())


def _entry(of: dict[str, Any]) -> dict[str, Any]:
    """Return an attack's facts, with what each of its parameter sets has of its own."""
    shared = dataclasses.asdict(next(iter(of.values())))
    del shared["source"], shared["parameters"]
    own = {each: {"source": p.source, "parameters": p.parameters} for each, p in of.items()}
    return {**shared, "sets": own}


def _side_by_side(of: dict[str, Any]) -> None:
    """Print a line per hyperparameter, a column per set, then the numbers' sources."""
    keys = list(dict.fromkeys(key for preset in of.values() for key in preset.parameters))
    rows = [["", *of]]
    rows += [[key, *(str(preset.parameters.get(key, "–")) for preset in of.values())] for key in keys]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows if keys else ():
        cells = [text.ljust(width) for text, width in zip(row, widths, strict=True)]
        print(f"    {'   '.join(cells)}".rstrip())
    for each, preset in of.items():
        print(f"    {each}: {preset.source}")


@app.command()
def flags(as_json: Json = False) -> None:
    """Signs of hidden gradients that models are checked for, with their thresholds."""
    from robustness_bench.benchmark.store.flags import FLAGS

    entries = [{"name": name, **flag._asdict()} for name, flag in FLAGS.items()]
    _show(entries, as_json, lambda entry: f"{entry['meaning']}; {entry['threshold']}")


@app.command()
def datasets(as_json: Json = False, plugin: Plugin = None) -> None:
    """Data sets, with shape and default budgets."""
    from robustness_bench.benchmark.data.registry import dataset_named, dataset_names

    entries = [dataclasses.asdict(dataset_named(name).info) for name in dataset_names()]
    _show(entries, as_json, _dataset)


@app.command()
def schedules(as_json: Json = False) -> None:
    """Training schedules: learning rate, epochs, batch size and the rest of a recipe."""
    from robustness_bench.benchmark.plan.layers import schedule_texts

    entries = [{"name": name, "summary": text} for name, text in schedule_texts().items()]
    _show(entries, as_json, lambda entry: str(entry["summary"]))


@app.command()
def models(as_json: Json = False, plugin: Plugin = None) -> None:
    """Architectures."""
    from robustness_bench.benchmark.networks import MODELS

    entries = [{"name": name, "summary": preset.summary} for name, preset in MODELS.items()]
    _show(entries, as_json, lambda entry: str(entry["summary"]))


def _show(entries: list[dict[str, Any]], as_json: bool, describe: Any) -> None:
    if as_json:
        print(json.dumps(entries, indent=1, ensure_ascii=False))
        return
    width = max(len(entry["name"]) for entry in entries)
    for entry in entries:
        print(f"{entry['name']:<{width}}  {describe(entry)}")


def _defense(entry: dict[str, Any]) -> str:
    parameters = ", ".join(f"{key}={value}" for key, value in entry["parameters"].items())
    return "; ".join(filter(None, [entry["label"], parameters, entry["source"]]))


def _detector(entry: dict[str, Any]) -> str:
    unions = entry["detectors"].items()
    parts = "; ".join(f"{dataset}: {', '.join(names)}" for dataset, names in unions)
    return "; ".join([entry["label"], parts, entry["source"]])


def _dataset(entry: dict[str, Any]) -> str:
    eps = f"ε = {entry['eps_linf']:.4g} (L∞), {entry['eps_l2']:.4g} (L2)"
    if not entry["size"]:  # of any folder
        return f"{entry['summary']}; {eps}"
    shape = f"{entry['channels']}×{entry['size']}×{entry['size']}"
    counts = f"{entry['train_images']} + {entry['test_images']} images"
    return f"{entry['summary']}; {shape}, {entry['classes']} classes, {counts}; {eps}"
