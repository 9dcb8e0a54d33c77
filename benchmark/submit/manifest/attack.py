"""``submission.toml`` of an attack: fully checked before anything else is read or run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustness_bench.attacks.registry import NORMS, attack_names
from robustness_bench.benchmark.data import DATASETS
from robustness_bench.benchmark.sandbox.confinement import Allowance
from robustness_bench.benchmark.submit.manifest.consistency import links
from robustness_bench.benchmark.submit.manifest.fields import names, text, truth, whole
from robustness_bench.benchmark.submit.manifest.keys import (
    KIND,
    WHO,
    Key,
    ManifestError,
    read_tree,
    values_of,
)
from robustness_bench.benchmark.submit.manifest.text import slug_of

ANY = "any"
_MOST = 1_000_000  # passes for one image


@dataclass(frozen=True, kw_only=True)
class AttackSubmission:
    """A submitted attack. Its texts are safe to show."""

    slug: str
    """Its name in file names and URLs."""
    name: str
    authors: tuple[str, ...]
    paper: str
    """A link or empty, like ``code``; at least one is given."""
    code: str
    licence: str
    contact: str
    description: str
    datasets: tuple[str, ...]
    norms: tuple[str, ...]
    randomised: bool
    """Whether another seed gives other images; the same seed must give the same."""
    forward_passes: int
    """The most per image, as the mean over a batch; likewise ``backward_passes``."""
    backward_passes: int

    @property
    def allowance(self) -> Allowance:
        return Allowance(self.forward_passes, self.backward_passes)

    @property
    def link(self) -> str:
        return self.paper or self.code

    def is_for(self, dataset: str) -> bool:
        """Return whether it works on this data set of ``DATASETS``."""
        return dataset in self.datasets or ANY in self.datasets


def is_attack(folder: Path) -> bool:
    """Return whether the manifest in ``folder`` is an attack's; an unreadable one counts as a defense's."""
    try:
        return read_tree(folder).get("kind") == "attack"
    except ManifestError:
        return False


def read_attack_manifest(folder: Path) -> AttackSubmission:
    """Read the manifest in ``folder``.

    Raises:
        ManifestError: with every problem found.
        BenchError: it is missing or not readable.
    """
    problems: list[str] = []
    values = values_of(read_tree(folder), _KEYS, ("attack",), problems)
    problems += [*links(values), *_name(values)]
    values.pop("kind", None)
    if problems:
        raise ManifestError(problems)
    return AttackSubmission(slug=slug_of(values["name"]), **values)


_KEYS = {
    **KIND,
    **WHO,
    "description": Key(text(2000, markup=True, lines=True), "say in a few sentences how it works"),
    "attack.datasets": Key(
        names((ANY, *DATASETS), "data set"), f'write ["{ANY}"], or some of {", ".join(DATASETS)}'
    ),
    "attack.norms": Key(names(NORMS, "norm"), f"name those it works in, of {', '.join(NORMS)}"),
    "attack.randomised": Key(truth, "write true or false"),
    "attack.forward_passes": Key(whole(1, _MOST), "say how many one image takes at most"),
    "attack.backward_passes": Key(whole(0, _MOST), "say how many one image takes at most, 0 if none"),
}


def _name(values: dict[str, Any]) -> list[str]:
    if slug_of(values.get("name", "")) in attack_names():
        return [f"name {values['name']} is that of a listed attack: choose another"]
    return []
