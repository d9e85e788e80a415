# Every target works on a fresh clone: it makes the virtual environment first.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
PY ?= $(VENV)/bin/python
STUBS := client/holdfast/v1
READY := $(VENV)/.ready
# Sized for two cores; twice as many workers, because two fifths of the time servers that were killed are waited for.
PYTEST_JOBS ?= 4
# Tests start servers by the hundred: what is compiled is kept, whatever the environment says.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo run test soak lint protos check-protos bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade 'pip>=25.1'
	$(PY) -m pip install --quiet --editable '.[server]' --group dev
	@touch $@

demo: $(READY) ## back up, watch, verify and restore real data under ./.demo/
	$(PY) -m tests.demo

run: $(READY) ## serve on 127.0.0.1:50551
	$(VENV)/bin/holdfast-server serve

test: $(READY) ## the test suite; ARGS go to pytest
	$(PY) -m pytest -n $(PYTEST_JOBS) --dist worksteal -m "not soak" $(ARGS)

soak: $(READY) ## the full counts of the promises, seeded and resumable; takes hours
	$(PY) -m bench.soak $(ARGS)

bench: $(READY) ## the figures of the evidence page
	$(PY) -m bench $(ARGS)

lint: $(READY) ## formatting, ruff, mypy, import contracts, proto rules
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports --no-logo
	$(VENV)/bin/buf lint
	@tag="$$(git describe --tags --abbrev=0 --match 'v[0-9]*' 2>/dev/null)"; \
	if [ -n "$$tag" ]; then echo "buf breaking against $$tag"; $(VENV)/bin/buf breaking --against ".git#tag=$$tag"; \
	else echo "no release tag yet: nothing to break"; fi

protos: $(READY) ## generate the stubs under client/holdfast/v1 from protos/
	rm -f $(STUBS)/*_pb2.py $(STUBS)/*_pb2.pyi $(STUBS)/*_pb2_grpc.py
	$(PY) -m grpc_tools.protoc -Iprotos --python_out=client --pyi_out=client --grpc_python_out=client protos/holdfast/v1/*.proto
	find $(STUBS) -name '*_pb2_grpc.py' ! -name '*_service_pb2_grpc.py' -delete

check-protos: protos ## fail if the committed stubs are not what protos/ gives
	@changed="$$(git status --porcelain -- $(STUBS))" || exit 1; \
	if [ -n "$$changed" ]; then \
		echo "$$changed"; \
		echo "check-protos: the stubs differ from protos/ or are not committed; run 'make protos' and commit $(STUBS)."; \
		exit 1; \
	fi

clean: ## remove the virtual environment and everything that was made here
	rm -rf $(VENV) .venv-tools .demo .bench .soak build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find bench client server tests -name __pycache__ -prune -exec rm -rf {} +
