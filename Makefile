# make setup | test | test-compose | lint | bench | demo | clean
# PYTHON=python3.12 chooses the interpreter; PIP_ARGS="--extra-index-url URL" reaches pip, for
# instance to take a build of torch without CUDA; PYTEST_ARGS="-k losses" reaches pytest.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
PIP_ARGS ?=
PYTEST_ARGS ?=
# What is installed beside the package; CI adds export, for the engines that students are exported to.
EXTRAS ?= teacher,trainer,huggingface,summarisation,report,dev
# Processes the tests run in; a file stays together, and the long ones come first. One that
# crashes ends the run: what it left behind would hold up the others.
TEST_JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup test test-compose lint bench demo clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or newer found; name one: make PYTHON=..." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) \
		-c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

test: setup
	$(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile --no-loadscope-reorder \
		--max-worker-restart 0 $(PYTEST_ARGS)

# On a real Docker engine with Compose; skipped where there is none. Some ten minutes on two quiet cores,
# longer on busy ones. One story, so what comes after a failure would say nothing.
test-compose: setup
	$(BIN)/python -m pytest -x -rs --durations=5 tests/compose $(PYTEST_ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m benchmarks.end_to_end

demo: setup
	$(BIN)/imitkd demo

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
