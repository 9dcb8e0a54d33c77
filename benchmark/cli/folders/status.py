"""`bench status`: how a run is that another terminal or machine has started."""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from robustness_bench.benchmark.cli.shared.labelled import Json, takes_urls
from robustness_bench.benchmark.mirror import local_folder, place


@takes_urls
def status(
    out: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of results: the run's --out.", parser=local_folder)
    ] = Path("results"),
    as_json: Json = False,
) -> None:
    """Show what is done, running and failed, and the time left, from the files in a folder of results."""
    from robustness_bench.benchmark.run.watching.journal import status_of

    found = status_of(out)
    if as_json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
        return
    results, run = found["results"], found["run"]
    print(f"{place(out)} holds {results['done']} finished cells, {results['failed']} failed")
    for line in results["damaged"]:
        print(f"  damaged  {line}")
    if run is not None:
        _say(run)


def _say(run: dict[str, Any]) -> None:
    from robustness_bench.benchmark.run.watching.progress import duration

    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run["began"]))
    silent = duration(run["silent"])
    words = {
        "running": f"runs, last entry {silent} ago",
        "silent": f"gave its last entry {silent} ago, so it was killed or cut off: the same command goes on",
        "done": "has ended",
        "failed": "has ended, with failures: the same command tries them again",
        "interrupted": "was interrupted: the same command goes on",
        "stopped": "was stopped by an error: the same command goes on",
    }
    print(f"process {run['process']} on {run['host']}, begun {began}, {words[run['state']]}")
    for kind in ("cells", "tasks"):
        counts = run[kind]
        said = ", ".join(f"{count} {state}" for state, count in counts.items())
        print(f"  {sum(counts.values())} {kind}: {said}")
    if run["left"] is not None:
        print(f"  {duration(run['left'])} left")
    for each in run["running"] if run["state"] == "running" else ():
        print(f"  running {100 * each['done']:3.0f} %  {each['title']}")
    for each in run["failed"]:
        print(f"  failed  {each['title']}: {each['error']}")
    if run["command"]:
        print(f"  {run['command']}")
