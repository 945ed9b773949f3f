# `make help` lists what there is. Every target works from a fresh clone: it makes .venv and installs what it needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: help app test long gpu clients lint format faults fuzz fuzz-short calibrate docs tutorial examples pictures lock lock-app sbom clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

app: $(VENV)/.app  ## the app in the browser: upload a dynamics.db, read the verdict (no torch)
	$(BIN)/streamlit run app.py

test: $(VENV)/.all  ## the tests, two at a time: six minutes on two cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

long: $(VENV)/.all  ## the tests that take long, two at a time: more of the same, and clusters
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m long

gpu: $(VENV)/.all  ## the tests that need a GPU, and the cost of a logged step there, in build/gpu.json: eight minutes
	$(BIN)/python -m pytest -m "long or not long" tests/prismatic/measure/test_gpu.py
	$(BIN)/python benchmarks/logging_overhead.py --device cuda --json build/gpu.json

# A link to the packages of .venv, so that torch is not installed twice. Both libraries want to build kernels; neither needs any.
# The trackers have an environment of their own, and neptune-exporter, which is on no package index, is a clone.
clients: $(VENV)/.all  ## mixtures of torchtitan and DeepSpeed, logs of MLflow and Neptune, installed beside .venv
	rm -rf build/clients && $(PYTHON) -m venv build/clients
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
		> "$$(build/clients/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/beside.pth"
	build/clients/bin/python -m pip install --quiet wheel setuptools hjson py-cpuinfo ninja "triton>=3.9,<4" \
		"tyro>=1,<2" "spmd_types==0.2.3" "datasets>=3.6,<4.8" "torchdata>=0.11,<1" "torch_checkpointing>=0.1,<1"
	build/clients/bin/python -m pip install --quiet --no-deps "torchtitan>=0.3,<0.4"
	DS_BUILD_OPS=0 build/clients/bin/python -m pip install --quiet --no-deps --no-build-isolation "deepspeed>=0.19,<0.20"
	OMP_NUM_THREADS=1 build/clients/bin/python -m pytest -m long tests/prismatic/experts/test_heavy_libraries.py
	TRITON_INTERPRET=1 OMP_NUM_THREADS=1 build/clients/bin/python -m pytest -m long tests/prismatic/measure/test_triton.py
	rm -rf build/trackers && $(PYTHON) -m venv build/trackers
	build/trackers/bin/python -m pip install --quiet "mlflow>=3.17,<4" "neptune-query>=1.5.1,<2" "neptune>=1.14,<2" "rich>=13.7,<14"
	git clone --quiet https://github.com/neptune-ai/neptune-exporter build/trackers/neptune-exporter
	git -C build/trackers/neptune-exporter checkout --quiet 8d3f44a62530c77573ebbd59de5b39cf758cdd5c
	$(BIN)/python -m pytest -m long tests/prismatic/trackers/test_heavy_trackers.py

lint: $(VENV)/.all  ## ruff, mypy, and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.all  ## format the code and mend what ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

faults: $(VENV)/.all  ## 1,000 faults of the disk, 1,000 kills at a write and 200 at any moment; `make test` does a few
	PRISMATIC_KILLS=200 PRISMATIC_DISK_FAULTS=1000 $(BIN)/python -m pytest tests/prismatic/runfile/test_faults.py

fuzz: $(VENV)/.all  ## coverage-guided fuzzing for 15 minutes; 10,000 forged files, 100,000 flipped bits, every hostile kind
	$(BIN)/python -m tests.fuzzing.fuzz --seconds 900
	PRISMATIC_MUTANTS=10000 PRISMATIC_FLIPS=100000 PRISMATIC_EACH_KIND=1 $(BIN)/python -m pytest --numprocesses 2 \
		tests/validation/files/test_fuzz.py tests/validation/files/test_damage.py tests/validation/test_hostile_files.py

fuzz-short: $(VENV)/.all  ## coverage-guided fuzzing for a minute
	$(BIN)/python -m tests.fuzzing.fuzz --seconds 60

calibrate: $(VENV)/.all  ## how often the verdict errs on runs of known truth, in a minute and a half
	$(BIN)/python benchmarks/calibration.py --quick
	$(BIN)/python benchmarks/distinct.py --quick

docs: $(VENV)/.docs  ## the documentation site, in build/site; a broken link is an error
	$(BIN)/mkdocs build

# A wheel, installed into an environment of its own as a reader would, must do what the tutorial says.
tutorial:  ## follow the tutorial with an installed wheel
	rm -rf build/wheel build/lib && mkdir -p build/wheel
	$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir build/wheel .
	$(PYTHON) -m venv build/wheel/venv
	build/wheel/venv/bin/pip install --quiet --constraint constraints.txt \
		"$$(ls build/wheel/*.whl)[train]" "$$(grep ^torch requirements.txt)"
	OMP_NUM_THREADS=1 build/wheel/venv/bin/python tests/support/run_tutorial.py build/wheel/venv/bin

examples: $(VENV)/.all  ## train the example runs again
	$(BIN)/python -m examples.make

pictures: $(VENV)/.all  ## take the pictures again that the docs show, of the app and of the verdict's power
	$(BIN)/python -m examples.pictures
	$(BIN)/python docs/pictures.py
	$(BIN)/python benchmarks/power.py --picture

# Local versions such as 2.13.0+cpu name a build, and other machines have another one.
lock:  ## renew constraints.txt: the newest versions that the requirements allow
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --requirement requirements-docs.txt
	{ sed -n '/^#/p' constraints.txt; build/lock/bin/python -m pip freeze | sed 's/+[a-z0-9.]*$$//'; } > build/constraints.txt
	mv build/constraints.txt constraints.txt
	$(MAKE) lock-app

# The hash of every file that may be installed for the app, on all systems, and the backend that builds the project.
lock-app:  ## renew requirements-app.lock: the same versions, with the hashes that `make app` and the image demand
	$(PYTHON) -m venv build/uv && build/uv/bin/python -m pip install --quiet "uv>=0.13,<1"
	echo "setuptools>=77" > build/backend.in
	build/uv/bin/uv pip compile --quiet --no-annotate --no-header --universal --generate-hashes --python-version 3.11 \
		--constraint constraints.txt requirements-app.txt build/backend.in --output-file requirements-app.lock

sbom:  ## list what the app consists of, in build/sbom.json (CycloneDX)
	rm -rf build/sbom && $(PYTHON) -m venv build/sbom
	build/sbom/bin/python -m pip install --quiet "cyclonedx-bom>=7,<8"
	PYTHONWARNINGS=ignore build/sbom/bin/cyclonedx-py requirements requirements-app.lock --pyproject pyproject.toml --output-file build/sbom.json

clean:  ## remove .venv and build, runs included
	rm -rf $(VENV) build

# A stamp for each set of requirements: it is installed when it changes and not otherwise. The project itself is
# installed as a link to this folder, so that `.venv/bin/prismatic` is the code beside it.
$(VENV)/.app: requirements-app.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements-app.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/.all: requirements.txt requirements-app.txt constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) --requirement requirements.txt --editable .
	touch $@ $(VENV)/.app

$(VENV)/.docs: requirements-docs.txt $(VENV)/.all
	$(INSTALL) --requirement requirements-docs.txt
	touch $@
