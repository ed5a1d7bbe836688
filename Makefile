# Two commands for everyone: `make quickstart` and `make test`. `make help` lists the rest.
PYTHON ?= python3
BIN := .venv/bin
ABLATIONS := $(basename $(notdir $(wildcard search_spaces/ablations/*.yaml)))
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: help quickstart study study-all results bench test test-all lint mlflow-ui docs pictures clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

quickstart: .venv/installed  ## run search_spaces/quickstart.yaml: real data, two cores, a few minutes
	$(BIN)/catsweep run search_spaces/quickstart.yaml

study: .venv/installed  ## the study of docs/results.md, and its page: some 95 minutes on two cores; goes on where it was interrupted
	$(BIN)/catsweep run search_spaces/study.yaml
	$(BIN)/python benchmarks/study/page.py --pack study

study-all: study  ## the study and every ablation of search_spaces/ablations/: some hours; goes on where it was interrupted
	for file in $(ABLATIONS); do $(BIN)/catsweep run search_spaces/ablations/$$file.yaml || exit 1; done
	$(BIN)/python benchmarks/study/page.py --pack $(ABLATIONS)

results: .venv/installed  ## draw docs/results.md again from the packed rows in docs/results/; runs nothing
	$(BIN)/python benchmarks/study/page.py

test: .venv/installed lint  ## lint, types, layers, and the fast tests
	$(BIN)/pytest -m "not slow" -n 2 --dist loadfile

test-all: .venv/installed lint  ## everything, the slow tests too
	$(BIN)/pytest

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

mlflow-ui: .venv/installed  ## serve the MLflow page of $CATSWEEP_HOME (default ~/catsweep) on 127.0.0.1:5000
	MLFLOW="$(CURDIR)/$(BIN)/mlflow" mlflow/start.sh

bench: .venv/installed  ## measure the speed beside that of peers: benchmarks/results.md
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[benchmarks]'
	for part in $(filter-out measure page,$(basename $(notdir $(wildcard benchmarks/speed/*.py)))); do \
		$(BIN)/python benchmarks/speed/$$part.py || exit 1; done
	$(BIN)/python benchmarks/speed/page.py

docs: .venv/installed  ## write docs/yaml.md from the specs and docs/tasks.md from the task files
	$(BIN)/python -m catsweep.cli.reference > docs/yaml.md
	$(BIN)/python -m catsweep.cli.tasks_page docs/task_stats.json > docs/tasks.md

pictures: .venv/installed  ## draw the README's pictures again from a finished quickstart (the second one needs chromium)
	$(BIN)/python docs/pictures.py

clean:  ## remove the virtual environment and tool caches
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
