# Everything a person does with a checkout. `make` alone lists it. ARGS=... is passed on: make test ARGS="-k kafka".

VENV ?= .venv
# The interpreter to build the environment with; empty picks the newest Python >= 3.11 on the PATH.
PYTHON ?=
ARGS ?=
# Processes that run the tests.
JOBS ?= $(shell nproc 2>/dev/null || echo 2)

BIN := $(VENV)/bin
# Touched when the environment is complete; older than the pins or the project's metadata means "install again".
STAMP := $(VENV)/.curb-setup
PINS := constraints/all.txt

.DEFAULT_GOAL := help
.PHONY: help setup demo test real check audit bench docs site image lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## Create .venv and install Curb with its pinned dependencies

demo: $(STAMP) ## Watch a runaway key being found, throttled and restored (under 90 s)
	$(BIN)/curb demo $(ARGS)

test: $(STAMP) ## Run every test
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

real: $(STAMP) ## Run the tests on real components there are (Kafka, Envoy, Chromium …), with a table
	$(BIN)/python -m tests.real $(ARGS)

check: $(STAMP) ## Lint, check the formatting and the types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy docs/generate.py deploy/demo_gateway.py

audit: $(STAMP) ## Look the pinned packages up among known vulnerabilities, and write dist/curb.cdx.json (SBOM)
	.ci/audit .venv-audit $(BIN)/python

bench: $(STAMP) ## Measure every target, and write benchmarks/results.json (some minutes)
	$(BIN)/python -m benchmarks $(ARGS)

docs: $(STAMP) ## Rewrite the reference pages from the code, then check the documentation
	$(BIN)/python docs/generate.py
	$(BIN)/python -m pytest tests/house $(ARGS)

site: $(STAMP) ## Build the documentation as a site, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict $(ARGS)

image: ## Build the image curb with docker or podman; CURB_IMAGE_BASE=debian makes its base too
	deploy/image $(ARGS)

lock: $(STAMP) ## Pin the newest dependencies again (needs uv)
	uv pip compile $(LOCK) --upgrade --extra dev pyproject.toml -o constraints/all.txt
	uv pip compile $(LOCK) --upgrade --extra dev --resolution lowest-direct pyproject.toml -o constraints/lowest.txt
	uv pip compile $(LOCK) $(IMAGE) --constraints constraints/all.txt pyproject.toml -o constraints/run.txt
	echo cyclonedx-bom | uv pip compile $(LOCK) --upgrade - -o constraints/sbom.txt

clean: ## Remove the environment, caches and demo output; never curb-data
	rm -rf $(VENV) .venv-* build dist demo-out .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What the image has: every kind of connector works in it.
IMAGE := --extra build --extra charts --extra apprise --extra aws --extra bills --extra forecast --extra gcp \
	--extra otel --extra river
LOCK := --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	--no-emit-index-url --no-emit-find-links

# With uv in seconds, without it in a minute or two; both install exactly the pinned files, then Curb itself on top,
# without build isolation so that nothing unpinned is fetched to build it.
$(STAMP): $(PINS) pyproject.toml setup.py
	@PYTHON="$(PYTHON)" sh .ci/setup $(VENV) $(PINS)
