# make demo | dashboard | test | test-all | fix | fuzz | sim | soak | bench | bench-growth | serve | compiled | test-compiled | audit.  PYTHON: any Python >= 3.11.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
COMPILED := .venv-compiled
WHEELS := build/compiled
# Else Python compiles proxy/ and tests/ anew in every process, of which the tests start hundreds.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: demo dashboard test test-all check fix fuzz sim soak bench bench-growth serve compiled test-compiled audit clean

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

# A fake Qwen, two workers, clients that visit them, and a Prometheus where there is one: data within a minute, until Ctrl-C.
dashboard: $(VENV)/.stamp
	@deploy/dashboard.sh $(BIN)

serve: $(VENV)/.stamp
	$(BIN)/streamtee serve --config config/streamtee.toml

test: $(VENV)/.stamp-dev
	@tests/system_tools.sh
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest

# All of it: every case on both event loops, what can fail around a store, the end-to-end tests before three workers
# and with a store, and the compiled build. About an hour.
test-all: $(VENV)/.stamp-dev
	@tests/system_tools.sh
	TEST_ALL=1 $(BIN)/pytest
	TEST_ALL=1 TEST_WORKERS=3 $(BIN)/pytest tests/end_to_end
	TEST_ALL=1 $(BIN)/python -m tests.store.redis_server $(BIN)/pytest tests/end_to_end
	$(MAKE) test-compiled

fix: $(VENV)/.stamp-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# How many streams it makes up: EXAMPLES, 1,000 to 2,000 of them a minute. With a compiled build (`make compiled`) it is held
# to its sources, too. See docs/fuzzing.md.
EXAMPLES ?= 20000
fuzz: $(VENV)/.stamp-dev
	EXAMPLES=$(EXAMPLES) $(BIN)/pytest -n 0 -o timeout=0 --hypothesis-profile=fuzz --hypothesis-show-statistics tests/test_fuzz.py tests/test_fuzz_inputs.py tests/test_fuzz_builds.py

# Two nodes and their store in virtual time: so many SEEDS, 10 of them a second. See docs/store.md.
SEEDS ?= 1000
sim: $(VENV)/.stamp-dev
	$(BIN)/python -m tests.sim.run --seeds $(SEEDS) $(ARGS)

# A proxy, a fake Qwen that misbehaves, clients that do, too: MINUTES of load, chosen by SEED. See docs/soak.md.
MINUTES ?= 10
SEED ?= 1
soak: $(VENV)/.stamp-dev
	$(BIN)/python -m tests.soak.run --minutes $(MINUTES) --seed $(SEED) $(ARGS)

bench: $(VENV)/.stamp-bench
	$(BIN)/python -m tests.bench.micro
	$(BIN)/python -m tests.bench.macro $(ARGS)

bench-growth: $(VENV)/.stamp-bench
	$(BIN)/python -m tests.bench.growth $(ARGS)

# Builds the wheel with compiled modules, build/compiled/streamtee-*.whl, and installs it in an environment of its own:
# .venv-compiled/bin/streamtee. 4 to 12 minutes; needs a C compiler.
compiled: $(COMPILED)/.stamp

$(COMPILED)/.stamp: pyproject.toml build_backend.py $(shell find proxy -name "*.py" -o -name "*.c" -o -path "proxy/console/*")
	$(PYTHON) -m venv $(COMPILED)
	rm -rf $(WHEELS)
	HATCH_BUILD_HOOK_ENABLE_MYPYC=1 $(COMPILED)/bin/python -m pip wheel -q --disable-pip-version-check --no-deps -w $(WHEELS) .
	$(COMPILED)/bin/python -m pip install -q --disable-pip-version-check $(WHEELS)/*.whl
	$(COMPILED)/bin/python -m pip install -q --disable-pip-version-check --force-reinstall --no-deps $(WHEELS)/*.whl
	@touch $@

$(COMPILED)/.stamp-dev: $(COMPILED)/.stamp
	$(COMPILED)/bin/python -m pip install -q --disable-pip-version-check "$$(ls $(WHEELS)/*.whl)[dev]"
	@touch $@

# All tests on the compiled modules, in a folder whose `proxy` is the installed one: 2 to 4 minutes more.
test-compiled: $(COMPILED)/.stamp-dev
	rm -rf build/tested
	mkdir -p build/tested
	cp -R tests config deploy docs .github Makefile pyproject.toml build_backend.py LICENSE *.md build/tested
	ln -s "$$(echo $(CURDIR)/$(COMPILED)/lib/python3*/site-packages/proxy)" build/tested/proxy
	cd build/tested && TEST_COMPILED=1 $(CURDIR)/$(COMPILED)/bin/pytest

# Asks for advisories on what is locked for the container; fails where none can be asked. deploy/lock.sh writes
# the locks and the bill of materials anew.
audit:
	rm -rf build/audit
	$(PYTHON) -m venv build/audit
	build/audit/bin/pip install -q --disable-pip-version-check 'pip-audit>=2.9,<3'
	build/audit/bin/pip-audit --strict --require-hashes --disable-pip -r deploy/requirements.lock
	build/audit/bin/pip-audit --strict --require-hashes --disable-pip -r deploy/build.lock

clean:
	rm -rf $(VENV) $(COMPILED) build .pytest_cache .mypy_cache .ruff_cache .hypothesis
