"""The benchmark from Python: ``import robustness_bench as rb``, then ``rb.evaluate``, ``rb.run``, …"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustness_bench.api import Evaluation, evaluate, records, run

__all__ = ["Evaluation", "evaluate", "records", "run"]


def __getattr__(name: str) -> Any:
    """Load the interface when it is first used: it imports pandas, which planning does not need."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from robustness_bench import api

    return getattr(api, name)
