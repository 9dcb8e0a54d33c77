"""`bench list`: what can be named on the command line."""

import dataclasses
import json
from typing import Annotated, Any

import typer

app = typer.Typer(help="List defenses, attacks, data sets or models.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Machine-readable.")]


@app.command()
def defenses(as_json: Json = False) -> None:
    """Defenses, with their hyperparameters."""
    from defenses.registry import defense_presets

    _show([dataclasses.asdict(preset) for preset in defense_presets().values()], as_json, _defense)


@app.command()
def attacks(as_json: Json = False) -> None:
    """Attacks, with their hyperparameters."""
    from attacks.registry import attack_presets

    _show([dataclasses.asdict(preset) for preset in attack_presets().values()], as_json, _attack)


@app.command()
def datasets(as_json: Json = False) -> None:
    """Data sets, with shape and default budgets."""
    from benchmark.datasets import DATASETS

    _show([dataclasses.asdict(data.info) for data in DATASETS.values()], as_json, _dataset)


@app.command()
def models(as_json: Json = False) -> None:
    """Architectures."""
    from benchmark.models import MODELS

    _show(
        [{"name": name, "summary": text} for name, text in MODELS.items()],
        as_json,
        lambda entry: str(entry["summary"]),
    )


def _show(entries: list[dict[str, Any]], as_json: bool, describe: Any) -> None:
    if as_json:
        print(json.dumps(entries, indent=1, ensure_ascii=False))
        return
    width = max(len(entry["name"]) for entry in entries)
    for entry in entries:
        print(f"{entry['name']:<{width}}  {describe(entry)}")


def _parameters(entry: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in entry["parameters"].items())


def _defense(entry: dict[str, Any]) -> str:
    return "; ".join(filter(None, [entry["label"], _parameters(entry), entry["source"]]))


def _attack(entry: dict[str, Any]) -> str:
    parts = [entry["label"], f"{entry['kind']} {'/'.join(entry['norms'])}", _parameters(entry)]
    return "; ".join(filter(None, [*parts, entry["source"]]))


def _dataset(entry: dict[str, Any]) -> str:
    shape = f"{entry['channels']}×{entry['size']}×{entry['size']}"
    counts = f"{entry['train_images']} + {entry['test_images']} images"
    eps = f"ε = {entry['eps_linf']:.4g} (L∞), {entry['eps_l2']:.4g} (L2)"
    return f"{entry['summary']}; {shape}, {entry['classes']} classes, {counts}; {eps}"
