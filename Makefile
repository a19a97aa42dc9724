# Everything that a person or CI does here, as one command each. `make` alone lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
PORT ?=
MODEL ?=
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.9

export PATH := $(CURDIR)/$(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export BENTOML_DO_NOT_TRACK := True

.PHONY: help install install-dev data adopt demo register retrain rollback history decision remotes push drift bento image \
    pull-request ui reconcile report serve docs check test-fast test test-long verify bench \
    bench-compare bench-peers audit gpu-check format clean

help: ## list these commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-12s %s\n", $$1, $$2}'

# What the addresses of stores and remotes need besides; `value`, for make would run what stands in them.
STORES := $(value DVC_REMOTE) $(value MLFLOW_TRACKING_URI) $(value MLFLOW_DEFAULT_ARTIFACT_ROOT) \
    $(shell cat .dvc/config .dvc/config.local 2>/dev/null)
STORE_EXTRAS := $(if $(findstring s3://,$(STORES)),s3) $(if $(findstring postgresql,$(STORES)),postgres)

# Scripts of an environment name its folder: in a copy of the project they would run the original's code.
MOVED := $(shell [ -L $(VENV) ] || ! [ -e $(VENV)/pyvenv.cfg ] || grep -qF '$(abspath $(VENV))' $(VENV)/pyvenv.cfg || echo --clear)
$(if $(MOVED),$(shell rm -f $(VENV)/installed*))

install: $(VENV)/installed $(STORE_EXTRAS:%=$(VENV)/installed-%) ## create .venv with the pinned versions of what the pipeline, the service and configured stores need
install-dev: $(VENV)/installed-dev ## the same, and what checks and tests need

$(VENV)/installed: EXTRAS := train,serve,export
$(VENV)/installed-s3: EXTRAS := s3
$(VENV)/installed-postgres: EXTRAS := postgres
$(VENV)/installed-docs: EXTRAS := docs
$(VENV)/installed-dev: EXTRAS := train,serve,export,test,e2e,lint,docs
$(VENV)/installed-s3 $(VENV)/installed-postgres $(VENV)/installed-docs $(VENV)/installed-dev: $(VENV)/installed

# uv takes seconds where pip takes minutes; if uv cannot be installed, pip gives the same result. Where PIP_FIND_LINKS
# offers builds, as a local CPU build of torch, they are taken (uv reads them from a variable of its own); else uv takes
# torch from its own index, built for the card that is here or for none; else PyPI has a build with CUDA, 2 GB of it.
$(VENV)/installed $(VENV)/installed-s3 $(VENV)/installed-postgres $(VENV)/installed-docs $(VENV)/installed-dev: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, found " + sys.version.split()[0])'
	@echo "installing $(EXTRAS) into $(VENV) (about a minute)"
	@[ -x $(BIN)/python -a -z "$(MOVED)" ] || $(PYTHON) -m venv $(MOVED) $(VENV)
	@if $(BIN)/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION); then \
	    uv=($(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode -e '.[$(EXTRAS)]' -c constraints.txt); \
	    if [ -n "$${PIP_FIND_LINKS:-}" ]; then UV_FIND_LINKS="$$PIP_FIND_LINKS" "$${uv[@]}"; \
	    else "$${uv[@]}" --torch-backend auto || { echo "torch's own index fails: taking PyPI's build"; "$${uv[@]}"; }; fi; \
	else \
	    $(BIN)/pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]' -c constraints.txt; \
	fi
	@$(BIN)/foundry plots-template --out .dvc/plots/offline.html
	@touch $@

# The constraints have a solution on each platform; resolution only, and only when they have changed.
PLATFORMS := x86_64-manylinux_2_28 aarch64-manylinux_2_28 aarch64-apple-darwin
PYTHONS := 3.11 3.12 3.13
$(VENV)/resolved: pyproject.toml constraints.txt $(VENV)/installed-dev
	@for platform in $(PLATFORMS); do for version in $(PYTHONS); do echo "$$platform $$version"; done; done | \
	    MACOSX_DEPLOYMENT_TARGET=14.0 UV_FIND_LINKS="$${PIP_FIND_LINKS:-}" xargs -P 2 -L 1 bash -c '$(BIN)/uv pip compile \
	        --quiet pyproject.toml --all-extras -c constraints.txt --python-platform $$0 --python-version $$1 >/dev/null'
	@touch $@

data: install ## get the demo's images into data/raw and check them
	@foundry data fetch --out data/raw

adopt: install ## a champion of your own images (DATA=folder, archive or url)
	@foundry adopt "$${DATA:-}"

demo: data ## from nothing to a registered champion
	@dvc repro
	@$(MAKE) --no-print-directory register
	@foundry summary

register: install ## log the model of the last run and decide about the champion (AGAIN=1: also if it was judged before)
	@foundry model register $(if $(AGAIN),--again)

# The whole of CI's loop. REMOTE=1: what is not here is pulled from DVC's remote. SET changes params first.
# What people type (DATA, SET, START_FROM, REASON, NEW) is read by the shell and not by make, which would run what stands in it.
retrain: install ## run what changed, let the gate decide, report (SET="train.seed=1 …", START_FROM=champion, SETTLE=1, REMOTE=1, AGAIN=1)
	@foundry set "$${SET:-}" $${START_FROM:+--start-from "$$START_FROM"}
	@$(if $(REMOTE),[ ! -e data/ancestor/model.dvc ] || dvc pull --quiet data/ancestor/model.dvc)
	@foundry data changed $(if $(REMOTE),--pull)
	@dvc repro $(if $(REMOTE),--pull --allow-missing)
	@$(if $(REMOTE),dvc pull --quiet prepare features train evaluate)
	@foundry runs reconcile
	@$(MAKE) --no-print-directory register
	@$(if $(SETTLE),foundry model settle)
	@foundry report
	@foundry model history --out data/registration/promotions.jsonl

rollback: install ## make the previous champion champion again (REASON="…", required)
	@foundry model rollback --reason "$${REASON:-}"

history: install ## show who was champion when, and why
	@foundry model history

decision: ## say in a word what the gate has decided: accept, reject or undecided
	@$(PYTHON) -c 'import json; print(json.load(open("data/registration/decision.json"))["decision"])'

remotes: install ## refuse to go on without a tracking server and a DVC remote (DVC_REMOTE=url)
	@foundry remotes-check

push: install ## send what was made to DVC's remote
	@dvc push --quiet || { echo "what has arrived stays there: \`make push\` sends the rest when the remote answers again" >&2; exit 1; }

drift: install ## compare new images with the training set (NEW=folder, request log or url; UNLABELLED=1, REMOTE=1)
	@$(if $(REMOTE),dvc pull --quiet prepare features)
	@new="$${NEW:-}"; \
	if [[ "$$new" == *://* ]]; then \
	    rm -rf .foundry/incoming && dvc get-url --quiet "$$new" .foundry/incoming && new=.foundry/incoming; \
	fi; \
	foundry data drift $(if $(UNLABELLED),--unlabelled) "$$new"

bento: install ## pack the champion and the service
	@foundry model package

image: install ## build the image with the champion in it (IMAGE=name)
	@deploy/image "$${IMAGE:-diffusion-foundry}"

pull-request: ## propose what a retraining changed: one pull request with one comment
	@deploy/pull-request

report: install ## write what the last retraining changed as a page, and print its place
	@foundry report

reconcile: install ## show what DVC took from its cache as runs in MLflow, and name lost and foreign runs
	@foundry runs reconcile

ui: install ## compare runs in the browser (PORT=5000)
	@foundry runs ui --port $(or $(PORT),5000)

docs: $(VENV)/installed-docs ## build the documentation as a site without the network: build/site/index.html
	@NO_MKDOCS_2_WARNING=1 mkdocs build --quiet --clean
	@echo "$(CURDIR)/build/site/index.html; with its search: python -m http.server --bind 127.0.0.1 --directory build/site"

serve: install ## serve the champion, or MODEL=folder or models:/…, on loopback (PORT=3000)
	@foundry serve $(if $(MODEL),--model '$(MODEL)') --port $(or $(PORT),3000)

check: install-dev $(VENV)/resolved ## formatting, lint, types, architecture, workflows, manifests, constraints
	@ruff format --check .
	@ruff check .
	@mypy
	@lint-imports
	@codespell
	@check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	@check-jsonschema --builtin-schema vendor.compose-spec deploy/compose.yaml deploy/tracking.yaml
	@for manifest in deploy/kubernetes*.yaml; do kubernetes-validate --strict --quiet "$$manifest" || exit; done
	@zizmor --offline --quiet .github

# One thread of torch for each test process: threads that wait for each other by spinning make a busy machine crawl.
test-fast: install-dev ## all tests that start no process and train nothing, for every save
	@OMP_NUM_THREADS=1 pytest -q -rN --fast -n 2 --dist load

test: check ## what CI runs
	@OMP_NUM_THREADS=1 pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m 'not long' --durations 25 --durations-min 5

test-long: install-dev ## repeated kills, soaks and faults of servers, an hour or two
	@OMP_NUM_THREADS=1 pytest -m long

verify: data ## train shortly twice, once killed three times, and compare every byte
	@dvc repro --quiet schedule
	@foundry verify

bench: install-dev ## try every benchmark; benchmarks/README.md has the commands that measure
	@for name in pipeline_overhead train_throughput sample_throughput timetables time_to_quality tick serving; do \
	    python -m benchmarks.$$name --quick; \
	done

bench-compare: install-dev ## fail if the working tree, or NEW=commit, is slower than BASE=commit (default: HEAD)
	@python -m benchmarks.compare "$${BASE:-HEAD}" $${NEW:+--new "$$NEW"}

bench-peers: install ## what benchmarks are measured beside, into .foundry/peers
	@pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .foundry/peers -r benchmarks/constraints.txt

audit: install-dev ## look up known weaknesses of what is pinned; needs the network
	@uvx pip-audit --strict --disable-pip --no-deps -r constraints.txt

gpu-check: install ## try the CUDA path, where there is a card
	@foundry gpu-check

format: install-dev ## let ruff put the code in order
	@ruff check --fix --quiet . || true
	@ruff format --quiet .

clean: ## drop the environment and every tool's cache; data, runs and models stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build *.egg-info
