"""The checks that only read files."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.files import file_hash
from robustness_bench.benchmark.submit.manifest.defense import Submission

Status = Literal["ok", "flagged", "FAILED", "skipped"]
MODEL_FILE, ATTACK_FILE = "model.py", "attack.py"
_LONGEST = 400
_LISTED = {  # well-known licences that permit use; any SPDX name may be given
    *("0BSD", "AFL-3.0", "AGPL-3.0", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "CC-BY-4.0"),
    *("CC-BY-NC-4.0", "CC-BY-SA-4.0", "GPL-2.0", "GPL-3.0", "ISC", "LGPL-3.0", "MIT", "MPL-2.0", "Unlicense"),
}
_NO_LICENCE = {"none", "noassertion", "unknown", "todo", "tbd", "proprietary", "n/a", "na", "unlicensed"}


class Check(NamedTuple):
    """The result of one check. "flagged": it can be run, and will be shown with this flag."""

    name: str
    status: Status
    text: str


def skipped(why: str) -> Check:
    """Return the line for all checks that were not made."""
    return Check("all others", "skipped", why)


def _files(submission: Submission, folder: Path) -> Check:
    failed = partial(Check, "files", "FAILED")
    have = sorted(path.name for path in folder.iterdir())
    others = [name for name in have if name.endswith(".safetensors") and name != submission.weights]
    if submission.weights not in have:
        there = f"; {others[0]} is there: name it in model.weights" if others else ": put it there"
        return failed(f"there is no {submission.weights}{there}")
    if submission.own and MODEL_FILE not in have:
        return failed(f'architecture "own" needs {MODEL_FILE} with build(): put it there')
    if not submission.own and MODEL_FILE in have:
        return failed(f'{MODEL_FILE} is not needed for a listed architecture: delete it, or say "own"')
    if ATTACK_FILE in have:
        return failed(f'{ATTACK_FILE} is for an attack: delete it, or write kind = "attack"')
    return Check("files", "ok", ", ".join(have))


def _hash(submission: Submission, folder: Path) -> Check:
    path = folder / submission.weights
    if not path.is_file():
        return Check("hash", "skipped", "there is no weights file")
    found = file_hash(path)
    if found != submission.sha256:
        return Check("hash", "FAILED", f'these are not the declared weights: the file has sha256 = "{found}"')
    return Check("hash", "ok", found[:12])


def _licence(submission: Submission, folder: Path) -> Check:
    return licence(submission.licence, "weights", "MIT or CC-BY-4.0")


def licence(text: str, what: str, such_as: str) -> Check:
    """Check whether a licence lets others use the submission."""
    if text.lower() in _NO_LICENCE:
        return Check("licence", "FAILED", f"{text} lets nobody use the {what}: choose one, such as {such_as}")
    known = text.removesuffix("-only").removesuffix("-or-later") in _LISTED or " " in text
    return Check("licence", "ok", text if known else f"{text}; not one we know, see spdx.org/licenses")


def _passes(submission: Submission, folder: Path) -> Check:
    n = submission.forward_passes
    if submission.own or n == 1:
        return Check("forward passes", "ok", f"{n} for one prediction, as declared")
    return Check(
        "forward passes",
        "FAILED",
        f"{submission.architecture} takes 1, {n} are declared: write forward_passes = 1",
    )


def _weights(submission: Submission, folder: Path) -> Check:
    from robustness_bench.benchmark.networks.weights import is_safetensors, read_weights

    path = folder / submission.weights
    if not path.is_file():
        return Check("weights", "skipped", "there is no weights file")
    with path.open("rb") as file:
        start = file.read(9)
    if start.startswith((b"PK", b"\x80")) and not is_safetensors(start):
        return Check(
            "weights",
            "FAILED",
            f"{submission.weights} is a PyTorch file (a pickle), which is not read: save the tensors with "
            "safetensors.torch.save_file(model.state_dict(), ...)",
        )
    try:
        tensors = read_weights(path)
    except BenchError as error:
        return Check("weights", "FAILED", own_words(error, folder))
    count = sum(tensor.numel() for tensor in tensors.values())
    return Check("weights", "ok", f"{len(tensors)} tensors, {count:,} numbers, all finite")


def own_words(error: BaseException, folder: Path) -> str:
    """Return an error as one line without the scratch folder's name, with manifest keys in its remedies."""
    text = " ".join(str(error).replace(f"{folder}/", "").split()) or type(error).__name__
    text = text.replace("pass --width", "write width =").replace("its --dataset", "its dataset")
    return "".join(sign if sign.isprintable() else "?" for sign in text)[:_LONGEST]


STATIC: tuple[Callable[[Submission, Path], Check], ...] = (_files, _hash, _licence, _passes, _weights)
