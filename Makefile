# `make bench` sets up and runs the main job, `make site` rebuilds tables and leaderboard, `make test` tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: setup bench site test lint clean

setup: $(VENV)/.installed

# TORCH pins the release, for example TORCH="torch==2.14.1 torchvision==0.29.1"
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH) -e ".[dev]"
	touch $@

bench: setup
	$(BIN)/bench run --seeds 2

# From the records that are committed; nothing is trained.
site: setup
	$(BIN)/bench run --config results/digits/protocol.toml --out results/digits
	$(BIN)/bench tables --config results/digits/protocol.toml --out results/digits
	$(BIN)/bench leaderboard build --out site

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest --durations=10

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache
