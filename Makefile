# Everything runs in a virtual environment of its own; PYTHON is any Python 3.11 or 3.12.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: quickstart test fuzz nightly asan cuda-report gpu systolic install clean

# In a folder of its own: the tables of the documents, which make test checks, are of results/.
quickstart: install ## the paper's idea in a few minutes: random against structured dropout, one table
	mkdir -p $@ && cd $@ && $(abspath $(BIN))/python ../run.py -m +experiment=quickstart

test: install ## lint, types, tests; the tests on real data need STRUCTURED_DROPOUT_DATA
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror kernels/*/* tests/cuda_shim/*.cpp tests/cuda_shim/*.h
	$(BIN)/mypy
	$(BIN)/python scripts/tables.py --check
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

fuzz: install ## 50,000 random cases against the float64 reference
	FUZZ_CASES=25000 $(BIN)/python -m pytest -q tests/library/test_fuzz.py

nightly: install ## what takes too long for every change; ONLY=memory,kills runs some of it
	$(BIN)/python scripts/nightly.py $(ONLY)

# It cannot see the memory that tile instructions (AMX) read and write.
WITHOUT_TILES := $(if $(filter x86_64,$(shell uname -m)),-mno-amx-bf16)
asan: install ## the kernels' tests under the address sanitizer
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" ASAN_OPTIONS=detect_leaks=0 STRUCTURED_DROPOUT_CXXFLAGS="-fsanitize=address -g $(WITHOUT_TILES)" \
	$(BIN)/python -m pytest -q tests/library/test_backends.py tests/library/test_cpu_kernels.py -k "cpu and not build and not compiler"

cuda-report: install ## registers, shared memory and spills of the CUDA kernels; needs no GPU
	$(BIN)/python scripts/cuda_report.py

gpu: ## on a machine with an NVIDIA GPU, with its own Python (PYTHON=...): tests, benchmarks and a training; OUT=folder
	$(PYTHON) scripts/gpu.py --out $(or $(OUT),results/gpu) $(if $(BUDGET),--budget $(BUDGET))

systolic: install .venv-systolic/installed ## the recipes' products on systolic arrays
	$(BIN)/python scripts/systolic.py .venv-systolic/bin/python

.venv-systolic/installed: scripts/arrays/requirements.txt
	$(PYTHON) -m venv .venv-systolic
	.venv-systolic/bin/pip install -q -r $<
	touch $@

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build multirun quickstart
