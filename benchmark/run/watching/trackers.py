"""The trackers of a run: found by name, and kept from failing it."""

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from robustness_bench.attacks.plugins import Offer, PresetError, Registry
from robustness_bench.benchmark.errors import BenchError, check_known, first_line
from robustness_bench.benchmark.run.watching.adapters import OWN
from robustness_bench.benchmark.run.watching.contract import About, Options, Tracker


def _accept(offer: Offer) -> type[Tracker]:
    if not (inspect.isclass(offer.value) and issubclass(offer.value, Tracker)) or inspect.isabstract(
        offer.value
    ):
        raise PresetError(f"{offer.where} must be a concrete Tracker class, got {offer.value!r}")
    return offer.value


TRACKERS: Mapping[str, type[Tracker]] = Registry("bench.trackers", "tracker", OWN, _accept)
"""Name -> tracker: ours, then those of the entry points ``bench.trackers``."""


def parsed(text: str) -> tuple[str, type[Tracker], dict[str, str]]:
    """Parse ``NAME`` or ``NAME:KEY=VALUE,KEY=VALUE``; BenchError for an unknown name or key, or no value."""
    name, _, rest = text.partition(":")
    check_known("tracker", [name], TRACKERS)
    kind = TRACKERS[name]
    options: dict[str, str] = {}
    for each in filter(None, rest.split(",")):
        key, equals, value = each.partition("=")
        check_known(f"option of --tracker {name}", [key], kind.options)
        if not equals or not value:
            raise BenchError(f"--tracker {text}: {key} has no value: write {key}=VALUE")
        options[key] = value
    return name, kind, options


class Trackers:
    """The trackers of a run. One that fails is told on stderr, in one line, and left out from then on."""

    def __init__(self, about: About, wanted: Iterable[str]) -> None:
        self._open: dict[str, Tracker] = {}
        for name, kind, options in [parsed(text) for text in wanted]:
            self._guarded(name, self._begin, name, kind, about, options)

    def _begin(self, name: str, kind: type[Tracker], about: About, options: Options) -> None:
        self._open[name] = kind(about, options)

    def _guarded(self, name: str, call: Callable[..., None], *arguments: Any) -> None:
        try:
            call(*arguments)
        except BenchError:  # a package is missing
            raise
        # Whatever other software raises: hours of training must not end because a chart cannot be drawn.
        except Exception as error:
            self._open.pop(name, None)
            told = f"the tracker {name} stops here, the run goes on: {first_line(error)}"
            print(f"bench: warning: {told}", file=sys.stderr)

    def log(self, group: str, values: Mapping[str, float], step: int) -> None:
        for name, tracker in list(self._open.items()):
            self._guarded(name, tracker.log, group, values, step)

    def close(self) -> None:
        for name, tracker in list(self._open.items()):
            self._guarded(name, tracker.close)
        self._open.clear()

    def __bool__(self) -> bool:
        return bool(self._open)
