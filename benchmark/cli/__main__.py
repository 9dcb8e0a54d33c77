"""`python -m robustness_bench.benchmark.cli` is `bench`."""

from robustness_bench.benchmark.cli import main

if __name__ == "__main__":
    main()
