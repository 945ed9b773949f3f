# make app   everything the app needs, then the app          (no torch)
# make test  everything, then the tests, two at a time

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: app test lint format faults fuzz calibrate examples clean

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
	PRISMATIC_KILLS=200 $(BIN)/python -m pytest tests/test_faults.py

# 10,000 damaged and forged run files; `make test` reads 500.
fuzz: $(VENV)/.all
	PRISMATIC_MUTANTS=10000 $(BIN)/python -m pytest tests/test_fuzz.py

# How often the verdict errs on runs of known truth, in a minute; all of it: python benchmarks/calibration.py
calibrate: $(VENV)/.all
	$(BIN)/python benchmarks/calibration.py --quick

examples: $(VENV)/.all
	$(BIN)/python -m examples.make

clean:
	rm -rf $(VENV) build

# A stamp per set of requirements: they are installed when they change and not otherwise.
$(VENV)/.app: requirements-app.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements-app.txt
	touch $@

$(VENV)/.all: requirements.txt requirements-app.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	touch $@ $(VENV)/.app
