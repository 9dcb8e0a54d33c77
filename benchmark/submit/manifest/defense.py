"""``submission.toml`` of a defense: fully checked before anything else is read or run."""

from dataclasses import dataclass
from pathlib import Path

from robustness_bench.attacks.registry import NORMS
from robustness_bench.benchmark.data import DATASETS
from robustness_bench.benchmark.networks import MODELS
from robustness_bench.benchmark.submit.manifest.consistency import OWN, claims, problems_between
from robustness_bench.benchmark.submit.manifest.fields import file, one_of, sha256, text, truth, whole
from robustness_bench.benchmark.submit.manifest.keys import (
    KIND,
    WHO,
    Key,
    ManifestError,
    read_tree,
    values_of,
)
from robustness_bench.benchmark.submit.manifest.text import fraction, slug_of

_MOST = 10**10  # images


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A submitted defense and its claims. Accuracies in %; texts are safe to show."""

    slug: str
    """Its name in file names and URLs."""
    name: str
    authors: tuple[str, ...]
    paper: str
    """A link or empty, like ``code``; at least one is given."""
    code: str
    licence: str
    contact: str
    dataset: str
    notes: str
    norm: str
    eps: float
    """In pixels of [0, 1]."""
    architecture: str
    """A name of ``robustness_bench.benchmark.networks.MODELS``, or "own"."""
    width: int
    """0 for the submission's own architecture."""
    weights: str
    sha256: str
    weights_plain: bool
    forward_passes: int
    randomised: bool
    real: int
    """Number of real training images beyond the data set's own; ``synthetic`` counts generated ones."""
    synthetic: int
    claimed: dict[str, float]
    """"natural" or the name of an attack -> accuracy"""

    @property
    def own(self) -> bool:
        """Whether the network is the submission's own code."""
        return self.architecture == OWN


def read_manifest(folder: Path) -> Submission:
    """Read the manifest in ``folder``.

    Raises:
        ManifestError: with every problem found.
        BenchError: it is missing or not readable.
    """
    problems: list[str] = []
    tree = read_tree(folder)
    values = values_of(tree, _KEYS, _SECTIONS, problems, free="claimed")
    claimed = claims(tree.get("claimed", {}), problems)
    problems = [_with_hash(problem, folder, values.get("weights")) for problem in problems]
    problems += problems_between(values, claimed)
    values.pop("kind", None)
    if problems:
        raise ManifestError(problems)
    return Submission(slug=slug_of(values["name"]), claimed=claimed, **values)


_DATASET = one_of(DATASETS, "data set")
_ARCHITECTURE = one_of((*MODELS, OWN), "architecture")
_KEYS = {
    **KIND,
    **WHO,
    "dataset": Key(_DATASET, f"choose one of {', '.join(DATASETS)}"),
    "notes": Key(text(2000, markup=True, lines=True), "", ""),
    "threat.norm": Key(one_of(NORMS, "norm"), f"choose one of {', '.join(NORMS)}"),
    "threat.eps": Key(fraction, 'write the budget the claims are for, such as "8/255"'),
    "model.architecture": Key(_ARCHITECTURE, f"choose one of {', '.join((*MODELS, OWN))}"),
    "model.width": Key(whole(0, 1024), "", 0),
    "model.weights": Key(file, "name the .safetensors file"),
    "model.sha256": Key(sha256, "write what `sha256sum` prints for the weights file"),
    "model.weights_plain": Key(truth, "", False),
    "model.forward_passes": Key(whole(1, 100_000), "say how many one prediction takes"),
    "model.randomised": Key(truth, "write true or false"),
    "data.real": Key(whole(0, _MOST), "say how many images, 0 if none"),
    "data.synthetic": Key(whole(0, _MOST), "say how many images, 0 if none"),
}
_SECTIONS = ("threat", "model", "data", "claimed")


def _with_hash(problem: str, folder: Path, weights: str | None) -> str:
    """Return the problem with model.sha256, with the value to write if the weights file is there."""
    from robustness_bench.benchmark.files import file_hash

    if not problem.startswith("model.sha256") or not weights or not (folder / weights).is_file():
        return problem
    return f'{problem.partition(":")[0]}: {weights} has sha256 = "{file_hash(folder / weights)}"'
