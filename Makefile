# make demo: set everything up and run the main job offline.  make test: set everything up, lint, type-check, test.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
WHEEL_SITE := build/wheel-site
TOOLS := build/tools
TORCH ?= torch
MINUTES ?= 10
NODE_MODULES := build/node/node_modules/@huggingface/transformers

.PHONY: install locked locks audit sbom dist fuzz fuzz-guided demo ablations ablations-real reproduce test unit test-slow lowest without-extras light ecosystem
.PHONY: browser node lint format typecheck suite clean docs docs-version notebooks

install: $(INSTALLED)

$(INSTALLED): pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e ".[dev]"
	touch $@

# the same environment from locks/, where every file must have its recorded SHA-256; `make test` then uses it.
# torch is the package index's build, with its GPU libraries; TORCH=torch-cpu takes the CPU build from PyTorch's index, which pip must know
locked:
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r locks/packages.txt -r locks/$(TORCH).txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BIN)/python -m pip check
	touch $(INSTALLED)

# locks/ from pyproject.toml and constraints.txt, after either of them has changed
locks: $(TOOLS)/installed
	$(PYTHON) .ci/locks.py $(TOOLS)/bin/uv

# known vulnerabilities of all locked packages; a package that the index does not know is an error
audit: $(TOOLS)/installed
	$(TOOLS)/bin/pip-audit --strict --disable-pip --require-hashes -r locks/packages.txt -r locks/torch.txt

# CycloneDX: the locked packages with their hashes
sbom: $(TOOLS)/installed
	cat locks/packages.txt locks/torch.txt | $(TOOLS)/bin/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible \
		--output-file build/sbom.cdx.json -

$(TOOLS)/installed: locks/tools.txt
	$(PYTHON) -m venv --clear $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r locks/tools.txt
	touch $@

# damaged files for every parser, in turn for MINUTES; wrong outcomes are in build/fuzz/ (docs/fuzzing.md)
fuzz: $(INSTALLED)
	$(BIN)/python -m tests.fuzz.run --minutes $(MINUTES) $(if $(FIRST),--first $(FIRST))

# one target by atheris, which keeps inputs that reach new branches: make fuzz-guided TARGET=csv_tables MINUTES=10
fuzz-guided: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,fuzz]"
	$(BIN)/python -m tests.fuzz.run --guided $(TARGET) --minutes $(MINUTES)

# wheel and source distribution, equal to the byte for one commit
dist: $(INSTALLED)
	$(BIN)/python .ci/distributions.py

demo: $(INSTALLED)
	$(BIN)/d2vpr demo --out build/demo

# the table of docs/ablations.md: what has no record yet is run, for hours; the same command goes on after an interruption
ablations: $(INSTALLED)
	$(BIN)/python -m benchmarks.ablations.run
	$(BIN)/python -m benchmarks.ablations.report

# the ablations of docs/real_photos.md: make ablations-real REAL=DIR TEACHER=MOBILENET VIT=MODEL
ablations-real: $(INSTALLED)
	$(BIN)/python -m benchmarks.ablations.run_real --real $(REAL) --teacher $(TEACHER) --vit $(VIT)
	$(BIN)/python -m benchmarks.ablations.report_real

# published weights, converted, with a PCA to 4096 numbers: make reproduce MODEL=my-d2vpr-4096 DATASET=pitts30k PHOTOS=DIR [LAYOUT=NAME]
reproduce: $(INSTALLED)
	$(BIN)/python benchmarks/reproduce.py --model $(MODEL) --dataset $(DATASET) --photos $(PHOTOS) $(if $(LAYOUT),--layout $(LAYOUT))

test: lint typecheck unit

unit: suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadscope -m "not slow" # a process a core, one thread each; a file stays whole

test-slow: suite
	$(BIN)/python -m pytest -m slow

# the tests with the lowest versions that pyproject.toml allows, in an environment of their own
lowest:
	$(MAKE) VENV=.venv-lowest CONSTRAINTS=constraints-lowest.txt unit

# the wheel with models alone, in an environment of its own: folders are indexed, and errors name the extras
without-extras:
	$(PYTHON) -m venv --clear build/without-extras
	build/without-extras/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt ".[models]" pytest hypothesis
	build/without-extras/bin/python -m pytest tests/test_without_extras.py

# the wheel without torch, in an environment of its own: a graph indexes and searches folders, and errors name the extra for models
light: $(INSTALLED)
	test -d build/light/graph || $(BIN)/d2vpr export embedded build/light/graph
	$(PYTHON) -m venv --clear build/light/venv
	build/light/venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt ".[onnxruntime]" pytest
	! build/light/venv/bin/python -c "import torch"
	D2VPR_GRAPH=build/light/graph build/light/venv/bin/python -m pytest --noconftest tests/test_light_installation.py
	du -sm build/light/venv/lib/python*/site-packages

# the tests of optional libraries, all of which are installed (1 GB); an import that fails is an error here, not a skipped test
ecosystem: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,ecosystem]"
	D2VPR_ALL_LIBRARIES=1 $(BIN)/python -m pytest -m "not slow and not browser and not node" $$(grep -rl importorskip tests --include='test_*.py')

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

# the documentation site, build/site; a broken link, a page that the navigation lacks or a wrong anchor is an error
docs: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# a version of the site in the branch gh-pages, which GitHub Pages serves: make docs-version VERSION=0.1 [ALIAS=latest]; nothing is pushed.
# The version with an alias, or else the first one, is where the site begins
docs-version: docs
	NO_MKDOCS_2_WARNING=1 PATH="$(abspath $(BIN)):$$PATH" $(BIN)/mike deploy --update-aliases $(VERSION) $(ALIAS)
	$(if $(ALIAS),,git cat-file -e gh-pages:index.html 2>/dev/null ||) PATH="$(abspath $(BIN)):$$PATH" $(BIN)/mike set-default $(or $(ALIAS),$(VERSION))

# run the notebooks of docs/notebooks/ and store their outputs, without anything of this machine
notebooks: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,docs]"
	$(BIN)/python .ci/site/notebooks.py docs/notebooks/*.ipynb

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
