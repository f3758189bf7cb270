# `make demo`, `make test`, `make bench`: each sets up what it needs, and costs little when it is there already.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test bench lock clean
.DEFAULT_GOAL := demo

demo: $(READY)
	@exec bg-pipelines demo $(ARGS)

test: $(READY)
	ruff check .
	ruff format --check .
	mypy
	lint-imports --no-cache
	dagster definitions validate -m bg_pipelines.definitions >/dev/null
	@# One test, with a debugger: make test ARGS="-n 0 --pdb -k name", or plain pytest.
	pytest -n 3 --dist worksteal $(ARGS)

bench: $(READY)
	@python -m benchmarks $(ARGS)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "bg-pipelines needs Python 3.11 or newer")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing packages into $(VENV) (a minute or two, once)"
	@# The lock is complete, so nothing is resolved; compiling on all processors takes half of pip's time for it.
	@$(BIN)/python -m pip install --quiet --no-deps --no-compile --requirement requirements.lock
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null || true
	@$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $(READY)

# Names and versions only, of everything that `make` installs.
lock:
	rm -rf $(VENV)/lock && $(PYTHON) -m venv $(VENV)/lock
	$(VENV)/lock/bin/python -m pip install --quiet '.[embedded,dev]' setuptools
	(echo "# Made by 'make lock': what the Makefile installs."; \
	  $(VENV)/lock/bin/python -m pip freeze --all --exclude pip --exclude bg-pipelines) > requirements.lock
	rm -rf $(VENV)/lock

clean:
	rm -rf $(VENV) .bg
