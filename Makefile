# One way to do each thing; CI calls the same targets.
.DEFAULT_GOAL := help
.PHONY: help pictures setup demo test test-ansible test-hosts wheelhouse check bench soak faults consul clean
.NOTPARALLEL:

BIN := .venv/bin
ARGS ?=
SEEDS ?= 0..9999
WORKERS ?= 3

help: ## Show this list
	@awk -F': ## ' '/^[a-z-]+: ## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Make .venv with the agent and all tools for working on it
	@scripts/setup dev

demo: ## Watch a mesh of three agents do real work, on this machine, under a minute
	@scripts/setup agent
	@$(BIN)/mesh demo $(ARGS)

check: ## Lint, formatting, types, import layers, the Ansible collection, house rules, links in the documentation
	@scripts/setup dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@scripts/ansible-lint
	@$(BIN)/python -m pytest -q tests/test_layers.py tests/test_docs_links.py

test: ## Everything, with a real Consul: each core module's coverage, then all tests, several at once, fast ones first (ARGS="-k link")
	@scripts/packages
	@scripts/setup dev
	@scripts/consul
	@$(BIN)/python scripts/core-coverage
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=10 $(ARGS)

test-ansible: ## Deploy with Ansible to hosts that boot in namespaces of this machine: eight to twenty minutes, as root
	@scripts/setup dev
	@scripts/consul
	@scripts/hosts-tree
	@$(BIN)/python -m pytest -x --durations=0 tests/hosts $(ARGS)

test-hosts: ## Run test-ansible where this machine can boot hosts, and say why where it cannot
	@scripts/setup dev
	@if reason=$$(scripts/hosts-probe 2>&1); then $(MAKE) test-ansible; else echo "no test-ansible: $$reason"; fi

wheelhouse: ## Put the wheels of heartmesh and all that it needs into dist/wheelhouse, for hosts without a registry
	@scripts/setup agent
	@scripts/wheelhouse

consul: ## Find Consul on PATH, or build it (about nine minutes, once)
	@scripts/consul

bench: ## Measure call and cast between two agents, beside plain ZeroMQ
	@scripts/setup agent
	@$(BIN)/mesh bench $(ARGS)

soak: ## Search for new failures: ten thousand simulated meshes (SEEDS=A..B), every schedule of small ones, random examples
	@scripts/setup dev
	@$(BIN)/mesh sim --seeds $(SEEDS)
	@$(BIN)/mesh sim --exhaustive all
	@$(BIN)/python -m pytest --hypothesis-profile=soak --timeout=3600 -x -m "not system" $(ARGS)
	@$(BIN)/python -m tests.system.faults
	@$(MAKE) test-hosts

faults: ## Do each fault to real processes many times, and print what became of all calls (ARGS="kills --rounds 200")
	@scripts/setup dev
	@scripts/consul
	@$(BIN)/python -m tests.system.faults $(ARGS)

pictures: ## Make the pictures of Consul's UI and of the page in docs/images anew, with Chromium
	@scripts/setup dev
	@scripts/consul
	@SCREENSHOTS=docs/images $(BIN)/python -m pytest -q tests/system/test_consul_ui.py tests/system/test_page.py

clean: ## Remove caches and build results; the environment stays
	@rm -rf build dist *.egg-info .coverage* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
