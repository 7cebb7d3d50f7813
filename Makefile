# Two commands for a stranger: `make smoke` runs the main job, `make test` the tests. Each makes .venv if it is missing.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# How many processes run tests side by side: twice the two cores of CI, since many tests wait for hosts, Slurm or Ray. Tests
# that share one of these run in one process (tests/conftest.py).
TEST_PROCESSES ?= 4

# Tests start hundreds of processes: each would compile our packages anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: smoke test lint types check check-long format clean
smoke: $(READY)
	$(BIN)/concord run configs/recipes/smoke.yaml

test: $(READY)
	$(BIN)/python -m pytest -n $(TEST_PROCESSES)

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

check: lint types test

# Whole runs that are killed, cut off and starved, on real hosts: half an hour, as root. Run it before an issue ends.
check-long: $(READY)
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) -m long
	$(BIN)/python benchmarks/kill_storm.py --directory "$$(mktemp -d)"
	$(BIN)/python benchmarks/host_faults.py --steps 60 --directory "$$(mktemp -d)"

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) store

# One environment for all, with the exact versions that were tested. Made anew when they change. torch comes first:
# DeepSpeed looks for it while it is built. DeepSpeed is next, since .ci/run waits for it. Python compiles a module when
# it is first imported, which is less than pip would; where it may not (PYTHONDONTWRITEBYTECODE), all that is imported
# here is compiled now, or every start would.
UNUSED := /(transformers/models|ray/rllib|ray/tune|tests)/
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || \
		{ echo "Concord needs Python 3.11 to 3.13 with venv; on Debian or Ubuntu: apt-get install python3 python3-venv, or give one: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "python3 -m venv failed; on Debian or Ubuntu: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --no-compile --upgrade pip setuptools wheel
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt torch
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt deepspeed
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev,eval,sample]'
ifdef PYTHONDONTWRITEBYTECODE
	@$(BIN)/python -m compileall -q -j 0 -x '$(UNUSED)' $(VENV)/lib >/dev/null 2>&1 || true # some ship templates that are no Python
endif
	@touch $@
