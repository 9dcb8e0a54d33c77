"""Describe given weights, evaluated in place of a model trained here."""

from pathlib import PurePath

from robustness_bench.benchmark.plan.protocol import Settings
from robustness_bench.benchmark.plan.tasks import ZOO, weights_hash


def given(settings: Settings) -> str:
    """Return the weights and their network in a few words; empty if none were given."""
    if not settings.weights or settings.weights.startswith(ZOO):
        return settings.weights and f"weights: {settings.weights}"
    network = f"{settings.model.name} of width {settings.model.width}"
    if settings.network:
        network = f"the network of {_named(PurePath(settings.network).name, settings.network)}"
    return f"{network}, weights: {_named(settings.weights, settings.weights)}"


def _named(name: str, file: str) -> str:
    return f"{name} (SHA-256 {weights_hash(file)[:12]}…)"
