# Everything a newcomer or a build machine runs. Needs python3 >= 3.11 and make; all else goes into .venv.
# Owns no logic: each target is one or two commands. `make help` lists them.

PYTHON ?= python3
ARGS ?=
SEEDS ?=
SEED ?=
MINUTES ?= 10
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
BENCH_STAMP := $(VENV)/.stamp-bench
WHAT ?= engine
PINNED := -c constraints.txt -e '.[dev]'
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check
INSTALL_UV = $(PIP) -c constraints.txt uv 2>/dev/null
INSTALL_FAST = $(BIN)/python -m uv pip install --quiet --python $(BIN)/python --compile-bytecode $(PINNED) 2>/dev/null
INSTALL_SLOW = $(PIP) $(PINNED)
PEERS := $(basename $(notdir $(wildcard benchmarks/peers/venvs/*.txt)))
PROTOS := $(wildcard proto/penstock/v1/*.proto)

.DEFAULT_GOAL := help
.PHONY: help venv demo test lint bench peers bench-compare growth load load-short rss profile soak chaos proto clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP) ## build .venv with pinned dependencies (once, then only when a pin changes)

demo: $(STAMP) ## run the whole way once, prove the books, leave nothing running (ARGS="--keep" leaves it up)
	@$(BIN)/penstock demo $(ARGS)

test: lint $(BENCH_STAMP) ## lint, then all tests on all cores (ARGS="tests/unit" for some)
	@$(BIN)/python -m pytest --numprocesses auto --dist loadscope --no-loadscope-reorder $(ARGS)

lint: $(STAMP) ## check style and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

bench: $(STAMP) ## measure events per second of each part and the whole (ARGS="engine --json")
	@$(BIN)/python -m benchmarks.run $(ARGS)

bench-compare: $(STAMP) ## measure BASE=REV and this tree by turns, as ratios (WHAT=end_to_end ARGS="--rounds 5")
	@$(BIN)/python -m benchmarks.compare $(BASE) $(WHAT) $(ARGS)

growth: $(BENCH_STAMP) ## plot events per second as work grows (ARGS="accounts --short")
	@$(BIN)/python -m benchmarks.growth $(ARGS)

load: $(BENCH_STAMP) ## a month end with Locust: an ERP outage, half the quota after it, plots and proof; 45 min
	@$(BIN)/python -m benchmarks.load $(ARGS)

load-short: $(BENCH_STAMP) ## the same in a minute
	@$(BIN)/python -m benchmarks.load --seconds 60 --events-per-s 60 $(ARGS)

rss: $(BENCH_STAMP) ## whether memory grows: half an hour at a modest rate (ARGS="--minutes 5")
	@$(BIN)/python -m benchmarks.run rss $(ARGS)

profile: $(BENCH_STAMP) ## flame graphs of a worker and a gateway under full load
	@$(BIN)/python -m benchmarks.flame $(ARGS)

peers: $(PEERS:%=.venv-peers/%/.stamp) ## build an environment for each tool of benchmarks/peers

.venv-peers/%/.stamp: benchmarks/peers/venvs/%.txt
	@echo "$*: into .venv-peers/$*"
	@$(PYTHON) -m venv --clear .venv-peers/$*
	@.venv-peers/$*/bin/python -m pip install -qq --disable-pip-version-check 'setuptools<81' wheel
	@.venv-peers/$*/bin/python -m pip install -qq --disable-pip-version-check -r $< && touch $@ \
	  || { rm -rf .venv-peers/$*; echo "$*: can't be installed here; runs will say so."; }

soak: $(STAMP) ## simulate bad days on all cores until stopped (SEEDS=1000 for so many, ARGS="--events 300")
	@$(BIN)/penstock simulate $(if $(SEEDS),--seeds $(SEEDS),--forever) $(ARGS)

chaos: $(STAMP) ## kill everything real under load for MINUTES=10, and prove that nothing is lost (SEED=7)
	@CHAOS_MINUTES=$(MINUTES) SEED=$(SEED) $(BIN)/python -m pytest -s tests/cluster/test_chaos_parts.py \
		tests/cluster/test_chaos_node.py tests/cluster/test_chaos_random.py $(ARGS)

proto: $(STAMP) ## generate the stubs beside the contract in proto/penstock/v1
	@$(BIN)/python -m grpc_tools.protoc -I proto --python_out=proto --pyi_out=proto --grpc_python_out=proto $(PROTOS)

clean: ## remove .venv, caches and reports; data under .penstock stays
	@rm -rf $(VENV) *.egg-info .pytest_cache .ruff_cache .hypothesis benchmarks/out
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# uv installs five times faster than pip; where it can't be had or can't reach an index, pip does the same work.
# The stamp is touched last, so a build that was interrupted is taken up again by the next call.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Penstock needs Python 3.11 or newer; $(PYTHON) is %d.%d. Name another one: make PYTHON=python3.12" % sys.version_info[:2])'
	@echo "Building .venv with pinned dependencies: up to a minute and a half, only this once."
	@$(PYTHON) -m venv $(VENV)
	@$(INSTALL_UV) && $(INSTALL_FAST) || { echo "uv can't install here; pip does it."; $(INSTALL_SLOW); }
	@touch $@

$(BENCH_STAMP): $(STAMP)
	@$(BIN)/python -m uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[dev,bench]' 2>/dev/null || $(PIP) -c constraints.txt -e '.[dev,bench]'
	@touch $@
