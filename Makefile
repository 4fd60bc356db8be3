# Autotuner: `make` lists the targets.
VENV    := .venv
PYTHON  := $(VENV)/bin/python
ARGS    ?=
# One BLAS thread is fastest for the small matrices here, and keeps the second core free.
export OPENBLAS_NUM_THREADS ?= 1
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow check format bench evidence wheel ci clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.demo: pyproject.toml scripts/setup.sh
	@sh scripts/setup.sh demo $(VENV)
$(VENV)/.dev: pyproject.toml scripts/setup.sh
	@sh scripts/setup.sh dev $(VENV)
$(VENV)/.bench: $(VENV)/.dev
	@sh scripts/setup.sh bench $(VENV)

install: $(VENV)/.demo ## everything that a user needs, in .venv (no torch)

demo: $(VENV)/.demo ## train twice on real images, untouched and tuned, and write a report (ARGS="--data PATH")
	@$(PYTHON) -m autotuner demo $(ARGS)

# With bytecode switched off, each of the hundreds of processes that the tests start would compile the product anew, 0.3 s each.
test test-slow: export PYTHONDONTWRITEBYTECODE :=

test: $(VENV)/.dev ## the tests that finish in minutes, on all cores (ARGS="-k hook")
	@$(PYTHON) -m pytest -n auto --dist worksteal $(ARGS)

test-slow: $(VENV)/.dev ## the long tests only
	@$(PYTHON) -m pytest -m slow $(ARGS)

check: $(VENV)/.dev ## style, types and import rules; changes nothing
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@PYTHONPATH=.:envs:policies $(VENV)/bin/lint-imports

format: $(VENV)/.dev ## rewrite the code in our style
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

bench: $(VENV)/.bench ## what the hook costs a training step, beside other loggers
	@$(PYTHON) benchmarks/hook_overhead.py $(ARGS)

evidence: $(VENV)/.dev ## every arm of docs/evidence-protocol.md in the simulator, in minutes (ARGS="--count 2")
	@PYTHONPATH=envs:policies $(PYTHON) -m autotuner_policies.evidence $(ARGS)

wheel: $(VENV)/.dev ## build the wheel, install it bare elsewhere, import the hook, load every artefact
	@sh scripts/wheel.sh $(VENV)

ci: check test ## what the CI runs

clean: ## remove the environment and caches
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
