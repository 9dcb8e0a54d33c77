"""``submission.toml`` of an attack: fully checked before anything else is read or run."""

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from robustness_bench.attacks.registry import NORMS, attack_names
from robustness_bench.benchmark.data import DATASETS
from robustness_bench.benchmark.models import Several, named
from robustness_bench.benchmark.sandbox.confinement import Allowance
from robustness_bench.benchmark.submit.manifest.keys import KINDS, Draft, ManifestError, Sent, read_tree
from robustness_bench.benchmark.submit.manifest.text import Licence, Name, Prose

ANY = "any"
_MOST = 1_000_000  # passes for one image


_Once = AfterValidator(lambda names: tuple(dict.fromkeys(names)))


class AttackSubmission(Sent):
    """A submitted attack."""

    SECTIONS: ClassVar = {"attack": ("datasets", "norms", "randomised", "forward_passes", "backward_passes")}
    WRITTEN: ClassVar = {
        **{"authors": [], "datasets": [ANY], "norms": list(NORMS)},
        **{"randomised": True, "forward_passes": 21, "backward_passes": 20},
    }

    name: Name
    """Name of the attack: up to 80 characters, no <, > or &, not the name of a listed attack."""
    licence: Licence
    """Licence of attack.py, as an SPDX name: "MIT", "Apache-2.0"."""
    description: Prose
    """How it works, in a few sentences."""
    datasets: Annotated[Several[Annotated[str, named("data set", lambda: (ANY, *DATASETS))]], _Once]
    """["any"], or some of `bench list datasets`."""
    norms: Annotated[Several[Annotated[str, named("norm", lambda: NORMS)]], _Once]
    """The norms that perturb() supports."""
    randomised: bool
    """true if another seed gives different images; the same seed must always give the same."""
    forward_passes: Annotated[int, Field(ge=1, le=_MOST)]
    """The most passes per image, as the mean over a batch; beyond it the attack is stopped."""
    backward_passes: Annotated[int, Field(ge=0, le=_MOST)]
    """The same backward; 0 if none."""

    @property
    def allowance(self) -> Allowance:
        return Allowance(self.forward_passes, self.backward_passes)

    def is_for(self, dataset: str) -> bool:
        """Return whether it works on this data set of ``DATASETS``."""
        return dataset in self.datasets or ANY in self.datasets


def is_attack(folder: Path) -> bool:
    """Return whether the manifest in ``folder`` is an attack's; an unreadable one counts as a defense's."""
    try:
        return read_tree(folder).get("kind") == KINDS[1]
    except ManifestError:
        return False


def read_attack_manifest(folder: Path) -> AttackSubmission:
    """Read the manifest in ``folder``.

    Raises:
        ManifestError: with every problem found.
        BenchError: it is missing or not readable.
    """
    draft = Draft(folder, AttackSubmission)
    sent = draft.parsed(AttackSubmission)
    if sent is not None and sent.slug in attack_names():
        draft.problems.append(f"name {sent.name} is that of a listed attack: choose another")
    if sent is None or draft.problems:
        raise ManifestError(draft.problems)
    return sent
