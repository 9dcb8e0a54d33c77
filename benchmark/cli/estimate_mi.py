"""`bench estimate-mi`: mutual information of a model's outputs with images and with attacks' noise."""

from typing import Annotated

import typer

from robustness_bench.benchmark.cli.shared.execution import execute
from robustness_bench.benchmark.cli.shared.options import Names, Request, split, takes_request


@takes_request
def estimate_mi(
    request: Request,
    objective: Annotated[
        Names, typer.Option("--objective", help="How estimators are trained: eq-5, eq-4, author, standard.")
    ] = None,
) -> None:
    """Estimate natural and adversarial mutual information of models under attacks.

    Estimators are trained on each model itself; the attacks take all their steps on every image. Writes
    the estimates of every image, mi.csv and a table.
    """
    from robustness_bench.benchmark.errors import BenchError, check_known
    from robustness_bench.benchmark.plan.protocol import OBJECTIVES
    from robustness_bench.benchmark.plan.tasks import make_mi_plan
    from robustness_bench.benchmark.report.lines.information import publish_mi

    objectives = split(objective or ["eq-5"])
    check_known("objective", objectives, OBJECTIVES)
    work = request.prepare(lambda protocol, data: make_mi_plan(protocol, data, objectives))
    if not work.tasks:
        raise BenchError("mutual information is estimated under attacks: name one other than none")
    execute(work, request, publish_mi, "estimates and mi.csv")
