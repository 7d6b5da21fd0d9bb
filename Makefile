# Two commands do all the set-up: `make run` and `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
SERVE ?=
BENCH ?=

.DEFAULT_GOAL := help
.PHONY: help run test soak install check lint types wheel schema seed bench bench-peers bench-execution bench-fanout lock clean

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/.run ## Serve the API with demo data and GraphiQL on http://127.0.0.1:8000 (SERVE="--port 9000" for more options)
	@$(BIN)/storefront serve --demo $(SERVE)

test: $(VENV)/.test ## Run the tests on a Postgres of their own
	$(BIN)/python -m pytest -n 2 --dist loadfile $(TESTS)

soak: $(VENV)/.test ## Run the tests that take minutes: processes and connections that die under load
	$(BIN)/python -m pytest -m soak $(TESTS)

install: $(VENV)/.test ## Make the environment with everything for development

check: lint types test ## All that has to hold: style, floors, types, schema, tests

lint: $(VENV)/.test ## Style, the floors of the house, and schema.graphql
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/storefront schema | diff -u schema.graphql - || { echo "schema.graphql is out of date. Run: make schema"; exit 1; }

types: $(VENV)/.test ## Static types, strictly
	$(BIN)/mypy

wheel: $(VENV)/.run ## Build a wheel with everything in it, GraphiQL and the dashboard too, in dist/
	@$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .

schema: $(VENV)/.run ## Write schema.graphql
	$(BIN)/storefront schema > schema.graphql

seed: $(VENV)/.run ## Load demo data (SEED="--products 20000 --events 1000000" for more of it)
	$(BIN)/storefront seed $(SEED)

bench: $(VENV)/.test ## Measure the standard works: CPU, requests per second, waiting (BENCH="--seconds 1" for more options)
	$(BIN)/python -m benchmarks standard $(BENCH)

bench-peers: $(VENV)/.test ## The same works by us and by four servers of other makes, in turns
	$(BIN)/python -m benchmarks peers $(BENCH)

bench-fanout: $(VENV)/.test ## The live feed to 1,000 listeners, beside graphql-ws on Node
	$(BIN)/python -m benchmarks fanout $(BENCH)

bench-execution: $(VENV)/.test ## Our executor against graphql-core's, in process
	$(BIN)/python -m benchmarks execution $(BENCH)

lock: $(VENV)/.test ## Resolve the dependencies anew (needs uv)
	uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-header --no-annotate --python-version 3.11 --extra build --extra dev pyproject.toml -o requirements-dev.txt
	uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-header --no-annotate --python-version 3.11 --extra build pyproject.toml -c requirements-dev.txt -o requirements.txt
	uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-header --no-annotate --python-version 3.11 --extra build --extra redis --extra otel --extra s3 pyproject.toml -c requirements-dev.txt -o requirements-server.txt

clean: ## Remove the environment, the embedded database and all caches
	rm -rf $(VENV) .storefront build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	rm -rf storefront/serving/graphiql/node_modules storefront/analytics/dashboard/node_modules clients/node_modules clients/http/node_modules clients/s3/node_modules
	find . -name __pycache__ -prune -exec rm -rf {} +

# The stamps say what the environment was made of: it is made again when that changes, and only then.
$(VENV)/.run: requirements.txt storefront/serving/graphiql/package-lock.json storefront/analytics/dashboard/package-lock.json | $(VENV)/.made
	@echo "Installing (once, about a minute)…"
	@$(PIP) --require-hashes -r requirements.txt
	@$(PIP) --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m storefront.serving.graphiql.assets
	@$(BIN)/python -m storefront.analytics.dashboard.assets
	@touch $@

$(VENV)/.test: requirements-dev.txt $(VENV)/.run
	@echo "Installing what the tests need…"
	@$(PIP) --require-hashes -r requirements-dev.txt
	@touch $@

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, and $(PYTHON) is older. Name another: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "The environment could not be made. On Debian and Ubuntu: apt install python3-venv"; rm -rf $(VENV); exit 1; }
	@touch $@
