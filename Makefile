# make demo | test | fix | bench | bench-growth | serve.  PYTHON: any Python >= 3.11.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
.PHONY: demo test check fix bench bench-growth serve clean

$(VENV)/.stamp: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "streamtee needs Python 3.11 or later")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -e .
	@touch $@

$(VENV)/.stamp-dev: $(VENV)/.stamp
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@

$(VENV)/.stamp-bench: $(VENV)/.stamp
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[bench]'
	@touch $@

demo: $(VENV)/.stamp
	$(BIN)/streamtee demo

serve: $(VENV)/.stamp
	$(BIN)/streamtee serve --config config/streamtee.toml

test: $(VENV)/.stamp-dev
	@tests/system_tools.sh
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest

fix: $(VENV)/.stamp-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.stamp-bench
	$(BIN)/python -m tests.bench.micro
	$(BIN)/python -m tests.bench.macro $(ARGS)

bench-growth: $(VENV)/.stamp-bench
	$(BIN)/python -m tests.bench.growth $(ARGS)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
