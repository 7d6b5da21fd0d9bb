# `make run` and `make test` do all the set-up. `make help` lists the other targets.
PYTHON ?= python3
VENV := .venv
# Without bytecode each of the many servers that tests start compiles all modules anew.
unexport PYTHONDONTWRITEBYTECODE
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Tests wait more than they work: more processes of them than cores. tests/conftest.py has the order of the files.
PARALLEL := -n 3 --dist loadfile --no-loadscope-reorder
SERVE ?=
BENCH ?=

.DEFAULT_GOAL := help
.PHONY: help run test coverage soak first-hour install check lint types kit demo-shop wheel docs release-check schema seed bench bench-peers bench-execution bench-fanout lock clean

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/.run ## Serve the API with demo data and GraphiQL on http://127.0.0.1:8000 (SERVE="--port 9000" for more options)
	@$(BIN)/storefront serve --demo $(SERVE)

test: $(VENV)/.test ## Run the tests on an embedded Postgres (TESTS=tests/products for some of them)
	$(BIN)/python -m pytest $(PARALLEL) $(TESTS)

coverage: $(VENV)/.test ## Run the tests and report the line coverage of each module
	$(BIN)/python -m pytest $(PARALLEL) --cov storefront --cov-report term:skip-covered $(TESTS)

soak: $(VENV)/.test ## Run the tests that take minutes: crashes and lost connections under load
	$(BIN)/python -m pytest -m soak $(TESTS)

first-hour: ## Try the first hour of a new user, from a fresh clone of the last commit (minutes)
	@PYTHON=$(PYTHON) sh tests/first_hour/from_clone.sh

install: $(VENV)/.test ## Create the environment with all dependencies for development

check: lint types test ## Run all checks: style, layers, schema, types, tests

lint: $(VENV)/.test ## Check style, formatting, layers, and that schema.graphql is up to date
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/storefront schema | diff -u schema.graphql - || { echo "schema.graphql is out of date. Run: make schema"; exit 1; }

types: $(VENV)/.test ## Check static types with mypy in strict mode
	$(BIN)/mypy

kit: $(VENV)/.run ## Build the client kit for TypeScript in clients/typescript/dist, with strict types
	@$(BIN)/python clients/typescript/build.py

demo-shop: $(VENV)/.run ## Build the demo shop on the client kit, which `make run` serves at /shop/{slug}
	@$(BIN)/python clients/demo-shop/build.py

wheel: $(VENV)/.run ## Build a wheel in dist/, with GraphiQL and the dashboard
	@$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .

docs: $(VENV)/.docs ## Build the documentation as a site in site/, with a reference of the schema
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet && echo "Open site/index.html"

release-check: check wheel docs ## Check all that a release consists of: tests, notes, schema, wheel, documentation, image
	@$(BIN)/python -m tests.release
	@if docker info >/dev/null 2>&1; then docker build --quiet .; else echo "Docker is not running: the image was not built."; fi

schema: $(VENV)/.run ## Write schema.graphql
	$(BIN)/storefront schema > schema.graphql

seed: $(VENV)/.run ## Load demo data (SEED="--products 20000 --events 1000000" for more)
	$(BIN)/storefront seed $(SEED)

bench: $(VENV)/.test ## Measure the standard workloads: CPU, requests per second, latency (BENCH="--seconds 1" for options)
	$(BIN)/python -m benchmarks standard $(BENCH)

bench-peers: $(VENV)/.test ## Measure the standard workloads on this server and on four others, interleaved
	$(BIN)/python -m benchmarks peers $(BENCH)

bench-fanout: $(VENV)/.test ## Measure the live feed with 1,000 subscribers, compared with graphql-ws on Node
	$(BIN)/python -m benchmarks fanout $(BENCH)

bench-execution: $(VENV)/.test ## Measure our executor against graphql-core's, in process
	$(BIN)/python -m benchmarks execution $(BENCH)

lock: $(VENV)/.test ## Resolve and lock the dependencies (needs uv)
	uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-header --no-annotate --python-version 3.11 --extra build --extra dev pyproject.toml -o requirements-dev.txt
	uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-header --no-annotate --python-version 3.11 --extra build pyproject.toml -c requirements-dev.txt -o requirements.txt
	uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-header --no-annotate --python-version 3.11 --extra docs pyproject.toml -c requirements-dev.txt -o requirements-docs.txt
	uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-header --no-annotate --python-version 3.11 --extra build --extra redis --extra otel --extra s3 pyproject.toml -c requirements-dev.txt -o requirements-server.txt

clean: ## Remove the environment, the embedded database and all caches
	rm -rf $(VENV) .storefront build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	rm -rf storefront/serving/graphiql/node_modules storefront/analytics/dashboard/node_modules clients/node_modules clients/http/node_modules clients/s3/node_modules clients/schema/node_modules clients/typescript/node_modules clients/typescript/dist clients/demo-shop/node_modules clients/demo-shop/dist
	find . -name __pycache__ -prune -exec rm -rf {} +

# Stamp files: the environment is reinstalled when the files that it depends on change, and only then.
$(VENV)/.run: requirements.txt storefront/serving/graphiql/package-lock.json storefront/analytics/dashboard/package-lock.json | $(VENV)/.made
	@echo "Installing (once, about a minute)…"
	@$(PIP) --require-hashes -r requirements.txt
	@$(PIP) --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m storefront.serving.graphiql.assets
	@$(BIN)/python -m storefront.analytics.dashboard.assets
	@touch $@

$(VENV)/.test: requirements-dev.txt $(VENV)/.run
	@echo "Installing the dependencies of the tests…"
	@$(PIP) --require-hashes -r requirements-dev.txt
	@touch $@

$(VENV)/.docs: requirements-docs.txt $(VENV)/.run
	@echo "Installing the generator of the site…"
	@$(PIP) --require-hashes -r requirements-docs.txt
	@touch $@

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, and $(PYTHON) is older. Name another: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "The environment could not be created. On Debian and Ubuntu: apt install python3-venv"; rm -rf $(VENV); exit 1; }
	@touch $@
