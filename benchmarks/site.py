"""Seconds to read a large store and to build its leaderboard.

    python benchmarks/site.py --defenses 500 --attacks 20 --seeds 3 --images 100

The store is made up and written first, which is not timed; defenses and attacks are in no registry. How long
a browser takes to sort the board of this size, tests/benchmark/site/test_browser.py prints.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for tests.benchmark.site.made_store

from robustness_bench.benchmark.site.build import build
from robustness_bench.benchmark.site.contents.reading import read_stores
from tests.benchmark.site.made_store import write_large


def measure(defenses: int, attacks: int, seeds: int, images: int) -> dict[str, float]:
    """What was measured: number of records, seconds of reading and of building (which reads, too), MiB."""
    with tempfile.TemporaryDirectory() as folder:
        store, site = Path(folder) / "store", Path(folder) / "site"
        records = write_large(store, defenses=defenses, attacks=attacks, seeds=seeds, images=images)
        started = time.perf_counter()
        read_stores([store])
        reading = time.perf_counter() - started
        started = time.perf_counter()
        build([store], site)
        building = time.perf_counter() - started
        size = sum(file.stat().st_size for file in site.rglob("*") if file.is_file())
    return {"records": records, "reading": reading, "building": building, "MiB": size / 2**20}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, default in (("defenses", 500), ("attacks", 20), ("seeds", 3), ("images", 100)):
        parser.add_argument(f"--{name}", type=int, default=default)
    found = measure(**vars(parser.parse_args()))
    for name, value in found.items():
        print(f"{name:>9}  {value:.1f}")


if __name__ == "__main__":
    main()
