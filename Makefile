# `make bench` sets up and runs the main job, `make site` rebuilds tables and leaderboard, `make test` tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
SIDE_BY_SIDE := --numprocesses logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder

.PHONY: setup bench site test lint clean

setup: $(VENV)/.installed

# TORCH pins the release, for example TORCH="torch==2.14.1 torchvision==0.29.1".
# uv unpacks torch's 4 GB on all cores, in a quarter of pip's time. It does not read pip's settings: pip installs where
# they name another index, and where uv fails.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	{ ! $(BIN)/python -m pip config list | grep -q '[.]index-url=' && $(PIP) uv \
	  && $(BIN)/uv pip install --quiet --python $(BIN)/python $(TORCH) -e ".[dev]"; } || $(PIP) $(TORCH) -e ".[dev]"
	touch $@

bench: setup
	$(BIN)/bench run --seeds 2 --norm linf

# From the records that are committed; nothing is trained.
site: setup
	$(BIN)/bench run --config results/digits/protocol.toml --out results/digits
	$(BIN)/bench tables --config results/digits/protocol.toml --out results/digits
	$(BIN)/bench leaderboard build --out site

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# With the oldest versions that pyproject.toml names:
# UV_RESOLUTION=lowest-direct make setup VENV=.lowest && .lowest/bin/python -m pytest --numprocesses 2 --dist loadfile
# Files of tests side by side, one on each core, in the order of their names, which ends with small ones.
# mypy keeps one core for a minute, so lint runs beside them and is shown after them. Either fails the target.
test: setup
	@log=$$(mktemp) && \
	{ $(MAKE) --no-print-directory lint >"$$log" 2>&1 & lint=$$!; } && \
	{ $(BIN)/python -m pytest $(SIDE_BY_SIDE) --durations=10; \
	  tests=$$?; wait $$lint; linted=$$?; cat "$$log"; rm -f "$$log"; \
	  echo "tests: exit status $$tests, lint: exit status $$linted"; test $$tests -eq 0 && test $$linted -eq 0; }

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache
