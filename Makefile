# Linear Time: `make book` builds the site, `make test` proves it. Everything they need goes into .venv.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help venv book pdf handout grade instructor slides test notebooks lab bench lint clean unit nbval lint-notebooks site browser lighthouse alone mutants everywhere

# What one process has compiled the next ones read, though the shell may say that nothing is to be written.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
CORES := $(shell nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
LOGS := _build/logs

help:  ## say what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */  make \1\t/' | expand -t 20

venv: .venv/.installed  ## make .venv and install into it

# .venv/.installing stands while pip works: found at the start, it tells of a kill, and the environment is made anew.
# quick.pth hides a grammar of web addresses in every script: jsonschema reads it for a second wherever a notebook is opened.
# Only the formats iri and iri-reference would ask it, and no schema that is installed has one: test_workflows.py.
# Of two makes that find nothing installed one installs, and the other waits for it (where there is flock).
.venv/.installed: requirements.txt pyproject.toml
	@mkdir -p _build; exec 9> _build/.installing.lock; \
	if command -v flock > /dev/null && ! flock -n 9; then \
	  echo "Another make is installing: waiting for it"; flock 9; \
	  if [ $@ -nt requirements.txt ] && [ $@ -nt pyproject.toml ]; then exit 0; fi; \
	fi; \
	python=""; for name in $${PYTHON:-} python3.11 python3 python; do \
	  if "$$name" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then python=$$name; break; fi; \
	done; \
	[ -n "$$python" ] || { echo "The book needs Python 3.11: install it, or name it with PYTHON=/path/to/python3.11"; exit 1; }; \
	"$$python" -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "$$python cannot make virtual environments: install its venv package (Debian: python3.11-venv)"; exit 1; }; \
	clear=""; \
	if [ -e .venv/.installing ]; then echo "The last installation was interrupted: starting it again"; clear=--clear; \
	elif [ -e .venv/bin/python ] && ! .venv/bin/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then clear=--clear; fi; \
	echo "Making .venv with $$("$$python" --version) and installing into it (the first time takes some minutes)"; \
	rm -f $@; "$$python" -m venv $$clear .venv; touch .venv/.installing; \
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt \
	  && $(BIN)/python -m pip install --disable-pip-version-check --no-deps -e . \
	  || { rm -f .venv/.installing; echo "The installation failed: see above"; exit 1; }; \
	echo 'import sys; sys.modules["rfc3987_syntax"] = None' > .venv/lib/python3.11/site-packages/quick.pth; \
	mkdir -p .venv/etc/ipython; echo 'c.IPKernelApp.log_level = "ERROR"' > .venv/etc/ipython/ipython_kernel_config.py; \
	mv .venv/.installing $@; touch $@

book: venv  ## execute what changed and render the book to _build/html (SOLUTIONS=no: without any solution)
	@$(BIN)/python book/build.py $(if $(filter no,$(SOLUTIONS)),--edition without-solutions)

pdf: book  ## the whole book on paper, _build/linear-time.pdf (SOLUTIONS=no: without any solution); needs Chromium
	@$(BIN)/python book/pdf.py $(if $(filter no,$(SOLUTIONS)),--edition without-solutions)

handout: venv  ## CH="12 16": notebooks without solutions, to _build/handout (FOR=nbgrader or FOR=otter: assignments)
	@$(BIN)/python book/handout.py $(or $(FOR),student) _build/$(if $(FOR),$(FOR),handout) $(CH)

grade: venv  ## DIR=submissions: grade what came back, to DIR/grades
	@$(BIN)/python book/grade.py $(DIR)

instructor: venv  ## the book with solutions shown and notes for teaching, to _build/instructor
	@$(BIN)/python book/build.py --edition instructor

slides: venv  ## make the decks of slides again from the pages that `make book` has rendered
	@$(BIN)/python book/slides.py

# Each step runs even where one before it failed; the summaries stand together at the end.
test: venv  ## unit tests, notebooks, the book's build and the checks of its pages
	@failed=""; \
	for step in browser unit lint-notebooks nbval book site; do \
	  printf '\n== %s\n' "$$step"; $(MAKE) --no-print-directory $$step || failed="$$failed $$step"; \
	done; \
	printf '\n== summary\n'; \
	for step in unit nbval site; do \
	  line=$$(tail -n 1 $(LOGS)/$$step.log 2>/dev/null || echo "did not run"); printf '%s: %s\n' "$$step" "$$line"; \
	done; \
	if [ -n "$$failed" ]; then echo "FAILED:$$failed"; exit 1; fi; echo "All passed"

browser: venv
	@$(BIN)/python tests/browser.py

unit: venv
	@mkdir -p $(LOGS); rm -f $(LOGS)/$@.log; OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests \
	  -n $(CORES) --dist loadfile --no-loadscope-reorder 2>&1 | tee $(LOGS)/$@.log

nbval: venv
	@mkdir -p $(LOGS); rm -f $(LOGS)/$@.log; OMP_NUM_THREADS=1 $(BIN)/python -m pytest -p book.kept --nbval chapters book \
	  -n $(CORES) --dist loadscope 2>&1 | tee $(LOGS)/$@.log

lint-notebooks: venv
	@$(BIN)/python book/notebooks.py lint

site: venv
	@mkdir -p $(LOGS); rm -f $(LOGS)/$@.log; $(BIN)/python -m pytest tests/test_site.py tests/test_light.py tests/test_keyboard.py \
	  tests/test_site_reader.py tests/test_api.py tests/test_slides.py -m site -n $(CORES) --dist loadfile --no-loadscope-reorder 2>&1 | tee $(LOGS)/$@.log

# PAGES="chapters/18-mamba.html": these only. A busy machine makes a page look slow.
lighthouse: venv  ## measure every page with npm's Lighthouse as a telephone and a desk see it, to _build/lighthouse.md (half an hour and more)
	@$(BIN)/python book/lighthouse.py $(PAGES)

alone: venv  ## execute every chapter in an empty folder, with nothing but the wheel and what it declares
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_alone.py -m "wheel or not wheel" -n $(CORES) --durations=0

# CHANGED=main: only lines that differ from it. PATHS="src/linear_time/scan.py book": only these. AGAIN=yes: those that lived, too.
SAMPLE ?= 10
mutants: venv  ## change the code in one place, many times, and see whether the tests notice
	@nice -n 19 env OMP_NUM_THREADS=1 PYTHONPATH=src PYTHONWARNINGS=ignore::SyntaxWarning $(BIN)/python tests/mutate.py run $(PATHS) --sample $(SAMPLE) \
	  $(if $(CHANGED),--changed $(CHANGED)) $(if $(SECONDS_OF_A_ROUND),--seconds $(SECONDS_OF_A_ROUND)) $(if $(AGAIN),--again)
	@$(BIN)/python tests/mutate.py report

# TESTS="tests/test_scan.py tests/test_training.py": these files only, in minutes.
everywhere: venv  ## unit tests twice, on one and two threads, with old instruction sets and on other Pythons
	@$(BIN)/python tests/everywhere.py $(if $(TESTS),--tests $(TESTS))

notebooks: venv  ## execute and normalise every chapter in place
	@$(BIN)/python book/notebooks.py run

lab: venv  ## open JupyterLab on the chapters
	@$(BIN)/jupyter lab chapters

bench: venv  ## time everything beside its peers, write the records and the README's table
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -r benchmarks/requirements.txt
	@$(BIN)/python benchmarks/all.py

lint: venv  ## style, format and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check --exclude '*.ipynb' . && $(BIN)/mypy

clean:  ## remove what was built (.venv stays: remove it by hand)
	rm -rf _build .pytest_cache .mypy_cache .ruff_cache .hypothesis
