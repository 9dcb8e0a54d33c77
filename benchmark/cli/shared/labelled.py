"""Options of verbs that take no request, and the data set of stored results."""

import functools
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

import typer

from robustness_bench.benchmark.mirror import mirrored

if TYPE_CHECKING:
    from robustness_bench.benchmark.data import Located

Given = ParamSpec("Given")
Result = TypeVar("Result")
DataDir = Annotated[
    Path, typer.Option("--data-dir", envvar="BENCH_DATA", help="Folder of the data set's files.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
TrustModel = Annotated[
    bool, typer.Option("--trust-code", help="Run a model's own code, confined, if it has any.")
]
TrustSubmission = Annotated[
    bool, typer.Option("--trust-code", help="Run the submission's code, confined. Read it first.")
]
Fit = Annotated[
    str,
    typer.Option("--fit", help="What made images of --dataset folder squares of one size: crop:32 or other."),
]


def takes_urls(verb: Callable[Given, Result]) -> Callable[Given, Result]:
    """Keep the folders of results that a verb is given, parsed by ``local_folder``, alike with their URLs."""

    @functools.wraps(verb)
    def verb_at_urls(*arguments: Given.args, **values: Given.kwargs) -> Result:
        lists = [value if isinstance(value, list) else [value] for value in values.values()]
        with ExitStack() as stack:
            for folder in [each for several in lists for each in several if isinstance(each, Path)]:
                stack.enter_context(mirrored(folder))
            return verb(*arguments, **values)

    return verb_at_urls


def locate_labelled(spec: Mapping[str, Any], folder: Path, fit: str = "") -> "Located":
    """Find the data set of a record's ``spec``: of its name, or whose files in ``folder`` give that name.

    Args:
        fit: of a folder of images (``data.folder.Fit``).
    """
    from robustness_bench.benchmark.data import DATASETS, locate
    from robustness_bench.benchmark.errors import BenchError

    label = spec["dataset"]
    if "facts" in spec:  # of a folder of images or a plugin: the record says which
        located = locate(spec["facts"]["name"], folder, fit=fit)
        if located.label == label:
            return located
        raise BenchError(f"{folder} holds {located.label}, not {label}: name its folder with --data-dir")
    if label in DATASETS and (located := locate(label, folder)).label == label:
        return located
    for name in DATASETS:
        with suppress(BenchError):
            located = locate(name, folder)
            if located.label == label:
                return located
    raise BenchError(f"no data set {label} in {folder}: name its folder with --data-dir")
