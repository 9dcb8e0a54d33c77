"""Robustness Bench: attacks, defenses, and the benchmark that runs them, stores the results and shows them.

import robustness_bench as rb

found = rb.evaluate(model, x, y, attacks=["pgd-40", "aa"], norm="linf", eps=8 / 255)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustness_bench.api import Evaluation, evaluate, records, run

__all__ = ["Evaluation", "evaluate", "records", "run"]


def __getattr__(name: str) -> Any:
    """Import a name of ``api`` on first use, because only ``api`` needs pandas."""
    if name in __all__:
        from robustness_bench import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
