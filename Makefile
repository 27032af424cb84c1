# make demo: set everything up and run the main job offline.  make test: set everything up, lint, type-check, test.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
WHEEL_SITE := build/wheel-site
NODE_MODULES := build/node/node_modules/@huggingface/transformers

.PHONY: install demo ablations reproduce test test-slow browser node lint format typecheck suite clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

demo: $(INSTALLED)
	$(BIN)/d2vpr demo --out build/demo

# the table of docs/ablations.md: what has no record yet is run, for hours; the same command goes on after an interruption
ablations: $(INSTALLED)
	$(BIN)/python -m benchmarks.ablations.run
	$(BIN)/python -m benchmarks.ablations.report

# published weights, converted, with a PCA to 4096 numbers: make reproduce MODEL=my-d2vpr-4096 DATASET=pitts30k PHOTOS=DIR
reproduce: $(INSTALLED)
	$(BIN)/python benchmarks/reproduce.py --model $(MODEL) --dataset $(DATASET) --photos $(PHOTOS)

test: lint typecheck suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadscope -m "not slow" # a process a core, one thread each; a file stays whole

test-slow: suite
	$(BIN)/python -m pytest -m slow

# the Space in a real browser: Debian's chromium, driven by Playwright; with both there, `make test` runs these too
browser: $(INSTALLED)
	command -v chromium || (apt-get update && apt-get install -y --no-install-recommends chromium)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,browser]"
	$(BIN)/python -m pytest -m browser

# exports for transformers.js by the library itself, from npm (0.5 GB), under Node.js 20 or later; then `make test` runs these too
node: $(INSTALLED) $(NODE_MODULES)
	$(BIN)/python -m pytest -m node

$(NODE_MODULES):
	npm install --prefix build/node --no-save --ignore-scripts --no-audit --no-fund @huggingface/transformers@4.3.1

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# type-checked as installed: mypy cannot follow the package-dir mapping in the tree, and this proves that the wheel is whole
typecheck: $(INSTALLED)
	rm -rf $(WHEEL_SITE) build/lib build/bdist.*
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --target $(WHEEL_SITE) .
	cd $(WHEEL_SITE) && ../../$(BIN)/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache -p d2vpr_hf

# transformers' own common model tests, of the installed version
suite: $(INSTALLED)
	$(BIN)/python tests/transformers_suite.py

clean:
	rm -rf build dist .cache $(VENV) *.egg-info
