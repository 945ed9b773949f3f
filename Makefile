# make app   everything the app needs, then the app          (no torch)
# make test  everything, then the tests, two at a time

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: app test lint format faults fuzz calibrate docs tutorial examples clean

app: $(VENV)/.app
	$(BIN)/streamlit run app.py

test: $(VENV)/.all
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

lint: $(VENV)/.all
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.all
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# All 200 kills of a writing process; `make test` does eight.
faults: $(VENV)/.all
	PRISMATIC_KILLS=200 $(BIN)/python -m pytest tests/prismatic/runfile/test_faults.py

# 10,000 damaged and forged run files; `make test` reads 500.
fuzz: $(VENV)/.all
	PRISMATIC_MUTANTS=10000 $(BIN)/python -m pytest tests/validation/files/test_fuzz.py

# How often the verdict errs on runs of known truth, in a minute; all of it: python benchmarks/calibration.py
calibrate: $(VENV)/.all
	$(BIN)/python benchmarks/calibration.py --quick

# The site, every broken link an error; it is in build/site.
docs: $(VENV)/.docs
	$(BIN)/mkdocs build --quiet

# The wheel, installed into an environment of its own, does what the tutorial says.
tutorial:
	rm -rf build/wheel build/lib && mkdir -p build/wheel
	$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir build/wheel .
	$(PYTHON) -m venv build/wheel/venv
	build/wheel/venv/bin/pip install --quiet "$$(ls build/wheel/*.whl)[train]" "$$(grep ^torch requirements.txt)"
	OMP_NUM_THREADS=1 build/wheel/venv/bin/python tests/support/run_tutorial.py build/wheel/venv/bin

examples: $(VENV)/.all
	$(BIN)/python -m examples.make

clean:
	rm -rf $(VENV) build

# A stamp per set of requirements: they are installed when they change and not otherwise.
$(VENV)/.app: requirements-app.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements-app.txt
	touch $@

$(VENV)/.docs: requirements-docs.txt $(VENV)/.all
	$(BIN)/python -m pip install --quiet --requirement requirements-docs.txt
	touch $@

$(VENV)/.all: requirements.txt requirements-app.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	touch $@ $(VENV)/.app
