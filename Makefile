# Two commands matter: `make lab` to learn, `make test` to check the code (and `make claims` what is said of it).
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
# One torch thread per test worker; two workers fit a laptop of two cores.
WORKERS ?= 2
export TOKENIZERS_PARALLELISM = false

.PHONY: help setup lab test claims test-fast rehearsal lint clean

help:
	@echo "make setup      the virtual environment in $(VENV), with everything the course needs"
	@echo "make lab        JupyterLab on lesson 00 (the first call sets up)"
	@echo "make test       lint, then the whole suite, notebooks and browser included"
	@echo "make claims     measures what the course claims again: one seed, small runs"
	@echo "make rehearsal  the learner's notebooks, every cell, with runs cut short"
	@echo "make test-fast  no notebooks, no browser, no long training: for daily work"
	@echo "make lint       ruff over package, tests and solutions"
	@echo "make clean      remove $(VENV)"
	@echo "PYTHON=python3.12 make setup   another Python (3.11 to 3.13)"

setup: $(VENV)/.done

# torch comes first and pinned: an open range would fetch gigabytes twice.
$(VENV)/.done: pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found. Name yours: make setup PYTHON=python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { echo "The course needs Python 3.11, 3.12 or 3.13; $(PYTHON) is `$(PYTHON) --version`."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q torch==2.13.0
	$(BIN)/python -m pip install -q -e ".[dev]"
	@touch $@

lab: setup
	$(BIN)/rlhf-course lab

lint: setup
	$(BIN)/ruff check rlhf_course tests solutions benchmarks docs
	$(BIN)/ruff format --check rlhf_course tests solutions benchmarks docs

# Each worker has one thread. A lesson stays with one worker, so two lessons are run at a time.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist $(DIST)
DIST   := loadfile
NBVAL  := -p no:cacheprovider --nbval-lax --nbval-current-env --nbval-cell-timeout 300 --nbval-sanitize-with tests/nbval_sanitize.cfg
# The browser's tests run every cell of the learner's notebooks in a rehearsal; without a browser nbval does.
BROWSER := $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)
# Progress made by a test is kept out of the way.
ASIDE  := home=$$(mktemp -d) && trap 'rm -rf "$$home"' EXIT && TQDM_DISABLE=1 RLHF_COURSE_HOME=$$home

test: lint
	@echo "== 1 of 3: the suite: package, notebooks' structure, browser, Colab's versions"
	$(PYTEST) -m "not claims"
	@echo "== 2 of 3: the learner's notebooks, every cell, in a rehearsal (runs cut short)"
	$(if $(BROWSER),@echo "done: the browser has run them",$(MAKE) rehearsal)
	@echo "== 3 of 3: the solutions in full; the printed numbers that the text quotes are compared"
	$(ASIDE) $(PYTEST) -q $(NBVAL) solutions

# Each test is a topic's runs, minutes long: a worker that is done takes one from the other.
claims: DIST := worksteal
claims: setup
	$(PYTEST) -m claims --durations 12

rehearsal: setup
	$(ASIDE) RLHF_COURSE_FAST=1 $(PYTEST) -q $(NBVAL) notebooks

test-fast: setup
	$(PYTEST) -m "not slow and not browser"

clean:
	rm -rf $(VENV)
