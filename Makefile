# make install   set-up alone: .venv with the locked packages and this project
#                EXTRAS=gpu,wandb adds optional packages, and changes no locked one
#                TORCH=cpu takes PyTorch's build without CUDA: 3 GB on disk instead of 8
# make demo      the whole flow on a sample corpus, about four minutes on two CPU cores
# make test      all tests;  make test-fast  without the slow ones
# make faults    the tests that break things, and the table of what survives in docs/guarantees.md
# make storm     whole journeys under faults that meet, from a seed: MINUTES=30 SEED=n; see docs/guarantees.md
#                JOURNEY=n that one alone;  REPLAY=file a failure;  PLANTED=1 without guards, one at a time
# make docs      README.md and docs/ as a site with a reference of the API: site/index.html
# make gpu-check what only a GPU can show; eight minutes at most, the next call goes on: benchmarks/gpu_check.py
# make lint      ruff and pyright;  make lock  resolve the locked packages again
#
# What test, faults, lint and format need besides is added to .venv when one of them is first called.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SITE   := .venv-docs
# Side by side, one more than cores, as tests often wait for processes of theirs; the tests of a file share what they have
# made, and stay together, in the order of tests/conftest.py.
PYTEST = $(BIN)/python -m pytest -n $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1) --maxprocesses 5 --dist loadfile --no-loadscope-reorder
# uv installs in about half of pip's time; where it is not on the machine, pip brings it into the environment.
UV = $(or $(shell command -v uv),$(BIN)/uv)
INSTALL = $(UV) pip install --quiet --compile-bytecode --python $(BIN)/python
# As pip does: a network's own certificates are the system's.
export UV_SYSTEM_CERTS := 1
LOCKED = $(INSTALL) --no-deps --require-hashes -r

# Optional packages, as pyproject.toml has them.
comma := ,
EXTRAS ?=
KNOWN_EXTRAS := $(shell sed -n '/^\[project.optional-dependencies\]/,/^\[tool/s/^\([a-z]*\) = .*/\1/p' pyproject.toml)
ifneq ($(filter-out $(KNOWN_EXTRAS),$(subst $(comma), ,$(EXTRAS))),)
$(error EXTRAS=$(EXTRAS): choose from $(KNOWN_EXTRAS), separated by commas)
endif
# flash-attn builds with the torch that is there, and with what builds it there too.
BUILD_TOOLS = $(if $(filter gpu,$(subst $(comma), ,$(EXTRAS))),ninja packaging psutil wheel)

.PHONY: install developed demo test test-fast faults storm gpu-check docs lint format lock clean

install: $(VENV)/.installed
ifneq ($(EXTRAS),)
	@sed -n 's/ *\\$$//; /^[a-zA-Z0-9]/p' requirements.lock requirements-dev.lock > $(VENV)/constraints.txt
	$(if $(BUILD_TOOLS),$(INSTALL) --constraint $(VENV)/constraints.txt $(BUILD_TOOLS))
	$(INSTALL) --constraint $(VENV)/constraints.txt --no-build-isolation -e '.[$(EXTRAS)]'
endif

$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 14) else f"Python {v[0]}.{v[1]} is not supported: use 3.11 to 3.14, for example make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(if $(shell command -v uv),,$(BIN)/python -m pip install --quiet --disable-pip-version-check uv)
	@echo "installing the locked packages (several GB with torch; minutes on a first run) ..."
ifeq ($(TORCH),cpu)
	@awk '/^[a-z0-9]/ {skipped = /^(torch==|torchvision==|triton==|nvidia-|cuda-)/} !skipped' requirements.lock > $(VENV)/without-torch.lock
	$(INSTALL) --torch-backend cpu $$(sed -n 's/^\(torch\(vision\)\{0,1\}==[^ ]*\).*/\1/p' requirements.lock)
	$(LOCKED) $(VENV)/without-torch.lock
else
	$(LOCKED) requirements.lock
endif
	$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

developed: $(VENV)/.developed

$(VENV)/.developed: $(VENV)/.installed requirements-dev.lock
	@echo "installing what developers need ..."
	$(LOCKED) requirements-dev.lock
	$(INSTALL) --no-config --no-deps --target $(VENV)/transformers-4 transformers==4.57.6 tokenizers==0.22.2 huggingface-hub==0.36.0
	@touch $@

demo: install
	$(BIN)/python recipes/demo.py

test: developed
	$(PYTEST)

test-fast: developed
	$(PYTEST) -m "not slow"

faults: developed
	MEAP_THOROUGH=1 $(PYTEST) -m fault --fault-table=docs/guarantees.md

STORM = $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED)) $(if $(JOURNEY),--journey $(JOURNEY)) \
	$(if $(REPLAY),--replay $(REPLAY)) $(if $(TABLE),--table $(TABLE))
storm: developed
	$(BIN)/python -m tests.storm$(if $(PLANTED),.planted) $(STORM)

gpu-check: install
	$(BIN)/python benchmarks/gpu_check.py

# The site is made from the text of the sources, so that it needs neither torch nor an installed project.
docs: $(SITE)/.installed
	NO_MKDOCS_2_WARNING=1 $(SITE)/bin/mkdocs build --strict --quiet
	@echo "written: site/index.html"

$(SITE)/.installed: pyproject.toml
	$(PYTHON) -m venv $(SITE)
	$(if $(shell command -v uv),,$(SITE)/bin/python -m pip install --quiet --disable-pip-version-check uv)
	$(or $(shell command -v uv),$(SITE)/bin/uv) pip install --quiet --python $(SITE)/bin/python -r pyproject.toml --extra docs
	@touch $@

lint: developed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: developed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Two locks: what a run needs, and what developers need besides, at the same versions. A version changes only if it must, or
# with UPGRADE=--upgrade. What pyproject.toml leaves out, with a platform that never is, goes from both.
RESOLVE = $(UV) pip compile --quiet pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
	--no-header --extra prep --extra train --extra eval
INSTALLABLE = awk '/^[a-z0-9]/ {never = /sys_platform == .never./} !never'
lock: install
	@cat requirements.lock requirements-dev.lock > all.lock
	$(RESOLVE) $(UPGRADE) --extra filters --extra dev --output-file all.lock >/dev/null
	$(RESOLVE) --constraints all.lock | $(INSTALLABLE) > requirements.lock
	@$(INSTALLABLE) all.lock | awk 'FNR == NR {if (/^[a-z0-9]/) known[$$1] = 1; next} /^[a-z0-9]/ {wanted = !($$1 in known)} wanted' \
		requirements.lock - > requirements-dev.lock
	@rm all.lock

clean:
	rm -rf $(VENV) $(SITE) site data runs
