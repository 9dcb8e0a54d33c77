"""`bench plan`: what a run would do, how much of it is done, and how long the rest takes."""

from robustness_bench.benchmark.cli.shared.labelled import Json
from robustness_bench.benchmark.cli.shared.options import Request, show_plan, takes_request


@takes_request
def plan(request: Request, as_json: Json = False) -> None:
    """Show the cells of a run, done and to do, with a time estimate from a timed batch."""
    show_plan(request.prepare(), request, as_json=as_json)
