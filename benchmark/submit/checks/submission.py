"""All checks of a submission, in order; each problem is a line with its remedy."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from robustness_bench.benchmark.data import locate
from robustness_bench.benchmark.errors import BenchError, DataError
from robustness_bench.benchmark.submit.checks.attack import attack_checks
from robustness_bench.benchmark.submit.intake.static import (
    MODEL_FILE,
    STATIC,
    Check,
    Status,
    own_words,
    skipped,
)
from robustness_bench.benchmark.submit.manifest.attack import is_attack
from robustness_bench.benchmark.submit.manifest.defense import Submission, read_manifest
from robustness_bench.benchmark.submit.manifest.keys import MANIFEST, ManifestError

if TYPE_CHECKING:
    from torch import nn

    from robustness_bench.benchmark.submit.checks.subject import Subject

_IMAGES = 400
_BASIC = ("shape", "logits", "range")
Probe = Callable[["Subject"], tuple[Status, str]]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to run the checks; has no influence on the verdicts."""

    trust_code: bool = False
    data_dir: Path = Path("data")
    device: str = "cpu"


def checks(folder: Path, settings: Settings) -> Iterator[Check]:
    """Check the submission in a scratch folder, as ``intake.reading.unpacked`` makes it."""
    if is_attack(folder):
        yield from attack_checks(folder, trust_code=settings.trust_code)
        return
    try:
        submission = read_manifest(folder)
    except ManifestError as error:
        yield from (Check("schema", "FAILED", problem) for problem in error.problems)
        if not any(folder.glob("*.safetensors")):
            yield Check("files", "FAILED", "there is no .safetensors file: put the weights there")
        yield skipped(f"until {MANIFEST} is right")
        return
    threat = f"{submission.norm}, ε = {submission.eps:.4g}"
    yield Check("schema", "ok", f"{submission.slug}: {submission.dataset}, {threat}")
    found = [run(submission, folder) for run in STATIC]
    yield from found
    if any(check.status == "FAILED" and check.name in ("files", "hash", "weights") for check in found):
        yield skipped("until the weights can be read")
    elif submission.own and not settings.trust_code:
        yield skipped(f"{MODEL_FILE} is code: read it, then add --trust-code to run it")
    else:
        yield from _of_model(submission, folder, settings)


def _of_model(submission: Submission, folder: Path, settings: Settings) -> Iterator[Check]:
    from robustness_bench.benchmark.submit.checks.probes import PROBES
    from robustness_bench.benchmark.submit.checks.subject import loaded

    try:
        with loaded(submission, folder, settings.device) as model:
            yield Check("loading", "ok", "all tensors match the network")
            try:
                subject = _subject(submission, model, folder, settings)
            except DataError as error:
                yield skipped(f"need test images: {error}")
                return
            yield from _probed(subject, PROBES, folder)
    except BenchError as error:
        yield Check("loading", "FAILED", own_words(error, folder))
        yield skipped("until the model can be loaded")


def _probed(subject: "Subject", probes: dict[str, Probe], folder: Path) -> Iterator[Check]:
    """Run the probes in turn, until one fails that the others rely on."""
    for name, probe in probes.items():
        stop = name in _BASIC
        try:
            status, text = probe(subject)
        except (BenchError, RuntimeError, ValueError) as error:
            status, text, stop = "FAILED", own_words(error, folder), True
        yield Check(name, status, text)
        if stop and status == "FAILED":
            yield skipped(f"until {name} is right")
            return


def _subject(submission: Submission, model: "nn.Module", folder: Path, settings: Settings) -> "Subject":
    from robustness_bench.benchmark.data.base import subset
    from robustness_bench.benchmark.measure.verification import natural_images
    from robustness_bench.benchmark.submit.checks.subject import Subject

    data = locate(submission.dataset, settings.data_dir)
    _, (_, x, y) = natural_images(subset(data.test_images, _IMAGES), data, settings.device)
    return Subject(
        submission=submission, model=model, x=x, y=y, data=data, weights=folder / submission.weights
    )
