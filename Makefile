# make install   set-up alone: .venv with the locked packages and this project
#                EXTRAS=gpu,wandb adds optional packages, and changes no locked one
# make demo      the whole flow on a sample corpus, about three minutes on two CPU cores
# make test      all tests;  make test-fast  without the slow ones
# make faults    the tests that break things, and the README's table of what survives
# make lint      ruff and pyright;  make lock  resolve requirements.lock again (needs uv)

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Side by side, one more than cores, as tests often wait for processes of theirs; the tests of a file share what they have
# made, and stay together, in the order of tests/conftest.py.
PYTEST = $(BIN)/python -m pytest -n $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1) --maxprocesses 5 --dist loadfile --no-loadscope-reorder
# uv is used where it is installed already: the same locked set, in a tenth of the time.
INSTALL = $(if $(shell command -v uv),uv pip install --quiet --compile-bytecode --python $(BIN)/python,$(BIN)/python -m pip install --quiet --disable-pip-version-check)

# Optional packages, as pyproject.toml has them.
comma := ,
EXTRAS ?=
KNOWN_EXTRAS := $(shell sed -n '/^\[project.optional-dependencies\]/,/^\[tool/s/^\([a-z]*\) = .*/\1/p' pyproject.toml)
ifneq ($(filter-out $(KNOWN_EXTRAS),$(subst $(comma), ,$(EXTRAS))),)
$(error EXTRAS=$(EXTRAS): choose from $(KNOWN_EXTRAS), separated by commas)
endif
ifneq ($(filter gcs,$(subst $(comma), ,$(EXTRAS))),)
$(error EXTRAS=gcs: no gcsfs fits the locked packages (streaming holds back google-cloud-storage); for gs:// install the wheel and its extra in an environment without the lock: pip install 'meap[gcs]')
endif
# flash-attn builds with the torch that is there, and with what builds it there too.
BUILD_TOOLS = $(if $(filter gpu,$(subst $(comma), ,$(EXTRAS))),ninja packaging psutil wheel)

.PHONY: install demo test test-fast faults lint format lock clean

install: $(VENV)/.installed
ifneq ($(EXTRAS),)
	@sed -n 's/ *\\$$//; /^[a-zA-Z0-9]/p' requirements.lock > $(VENV)/constraints.txt
	$(if $(BUILD_TOOLS),$(INSTALL) --constraint $(VENV)/constraints.txt $(BUILD_TOOLS))
	$(INSTALL) --constraint $(VENV)/constraints.txt --no-build-isolation -e '.[$(EXTRAS)]'
endif

$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v <= (3, 12) else f"Python {v[0]}.{v[1]} is not supported: use 3.10 to 3.12, for example make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	@echo "installing the locked packages (several GB with torch; minutes on a first run) ..."
	$(INSTALL) --no-deps --require-hashes -r requirements.lock
	$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

demo: install
	$(BIN)/python recipes/demo.py

test: install
	$(PYTEST)

test-fast: install
	$(PYTEST) -m "not slow"

faults: install
	MEAP_FAULT_STEPS=20000 $(PYTEST) -m fault --fault-table=README.md

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock:
	uv pip compile pyproject.toml --extra prep --extra filters --extra train --extra eval --extra dev --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-annotate --no-header --output-file requirements.lock

clean:
	rm -rf $(VENV) data runs
