VENV := .venv
BIN := $(VENV)/bin
PREFIX := model/resnet-digits-14
EPOCHS := 20

.PHONY: demo test lint parity bench clean

$(VENV)/.installed: pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# Learn handwritten digits, show the curve, name a picture: about two minutes on two cores.
demo: $(VENV)/.installed
	$(BIN)/resnet-v2 data digits --out data/digits
	$(BIN)/resnet-v2 train --data-dir data/digits --data-type digits --depth 14 --batch-size 64 --epochs $(EPOCHS) --gpus ''
	$(BIN)/resnet-v2 evaluate --prefix $(PREFIX) --epoch $(EPOCHS) --rec data/digits/digits_val.rec --gpus ''
	$(BIN)/resnet-v2 plot --logs $(PREFIX).log --out training-curve.png
	$(BIN)/resnet-v2 predict --img data/digits/examples/7.png --prefix $(PREFIX) --epoch $(EPOCHS) --top 2

test: $(VENV)/.installed
	$(BIN)/python -m pytest

lint: $(VENV)/.installed
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

clean:
	rm -rf $(VENV) .venv-mxnet build data/digits model training-curve.png src/*.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
