"""All checks of a submitted attack, in order; each problem is a line with its remedy."""

from collections.abc import Iterator
from pathlib import Path

from robustness_bench.benchmark.sandbox.confinement import ConfinementError
from robustness_bench.benchmark.sandbox.failures import SubmittedAttackError
from robustness_bench.benchmark.submit.intake.static import ATTACK_FILE, Check, licence, own_words, skipped
from robustness_bench.benchmark.submit.manifest.attack import AttackSubmission, read_attack_manifest
from robustness_bench.benchmark.submit.manifest.keys import MANIFEST, ManifestError

_LINES = {
    "confine": "loading",
    "import": "loading",
    "output": "shape",
    "passes": "passes",
    "time": "limits",
    "memory": "limits",
    "limit": "limits",
}
"""Stage of a failure -> the check that reports it; otherwise "running"."""


def attack_checks(folder: Path, *, trust_code: bool) -> Iterator[Check]:
    """Check the attack in a scratch folder, as ``intake.reading.unpacked`` makes it."""
    try:
        attack = read_attack_manifest(folder)
    except ManifestError as error:
        yield from (Check("schema", "FAILED", problem) for problem in error.problems)
        yield skipped(f"until {MANIFEST} is right")
        return
    yield Check("schema", "ok", f"{attack.slug}: {', '.join(attack.datasets)}; {', '.join(attack.norms)}")
    files = _files(folder)
    yield files
    yield licence(attack.licence, "code", "MIT or Apache-2.0")
    if files.status == "FAILED":
        yield skipped("until the files are right")
    elif not trust_code:
        yield skipped(f"{ATTACK_FILE} is code: read it, then add --trust-code to run it")
    else:
        yield from _tried(attack, folder)


def _files(folder: Path) -> Check:
    have = sorted(path.name for path in folder.iterdir())
    if ATTACK_FILE not in have:
        return Check("files", "FAILED", f"there is no {ATTACK_FILE} with perturb(): put it there")
    strays = [name for name in have if name == "model.py" or name.endswith(".safetensors")]
    if strays:
        return Check("files", "FAILED", f"an attack has no {strays[0]}: delete it, {ATTACK_FILE} is all")
    return Check("files", "ok", ", ".join(have))


def _tried(attack: AttackSubmission, folder: Path) -> Iterator[Check]:
    from robustness_bench.benchmark.submit.checks.trial import Trial, probed

    try:
        for name, (status, text) in probed(Trial(attack, folder / ATTACK_FILE)):
            yield Check(name, status, text)
    except SubmittedAttackError as error:
        yield Check(_LINES.get(error.stage, "running"), "FAILED", own_words(error, folder))
        yield skipped("until that is fixed")
    except ConfinementError as error:
        yield Check("all others", "FAILED", own_words(error, folder))
