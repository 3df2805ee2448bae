# Two commands do everything on a machine with Python 3.11+ and make: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Many a container forbids bytecode. Without it each of our processes would compile PyTorch, Ray and all
# others anew, which takes longer than most of what it then does.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test check fix requirements clean

demo: $(STAMP)
	$(BIN)/fedderm run configs/demo.yaml

test: $(STAMP)
	$(BIN)/python -m pytest

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_imports.py

fix: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# uv takes torch and torchvision from the index as a matching pair; pip would mix builds.
$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "fedderm needs Python 3.11 or newer; found `$(PYTHON) --version`; call make PYTHON=python3.12" >&2; exit 1; }
	@echo "installing into $(VENV): about 5 GB, some minutes the first time"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.9,<1"
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	touch $(STAMP)

# Pins every package; no addresses of registries are written.
requirements: $(STAMP)
	$(BIN)/uv pip compile --quiet --extra dev --universal --python-version 3.11 --no-header --no-annotate \
		--no-emit-index-url --no-emit-find-links pyproject.toml -o requirements.txt

clean:
	rm -rf $(VENV) .fedderm build *.egg-info .mypy_cache .pytest_cache .ruff_cache
