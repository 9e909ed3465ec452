# make train   set up, then train ResNet-20 with LARS on real handwritten digits, two Horovod workers
# make test    set up, then run the tests
PYTHON ?= $(or $(shell command -v python3.11),$(shell command -v python3),python3)
RUN_DIR ?= runs/digits_resnet20_lars_b512
TRAIN_ARGS ?=
TEST_ARGS ?=
STUDY_ARGS ?=

VENV := .venv/bin
# The environment's own programs come first: Horovod starts `python` by name.
export PATH := $(CURDIR)/$(VENV):$(PATH)
export TF_CPP_MIN_LOG_LEVEL ?= 3
PYTEST = python -m pytest -m "not study" $(TEST_ARGS)
# These rooms promise to work on every backend of Keras.
EVERY_BACKEND := tests/optimizers tests/schedules

.PHONY: help train test torch study bench lint format docs bazel clean setup setup-test

help:
	@sed -n 's/^# make/make/p' Makefile

setup:
	@$(PYTHON) tools/bootstrap.py horovod
setup-test:
	@$(PYTHON) tools/bootstrap.py horovod test

train: setup
	@python -m tf_lars.horovod.run -np 2 python -m trainers.train \
	  --flagfile=configs/digits_resnet20_lars_b512.flags --run_dir=$(RUN_DIR) $(TRAIN_ARGS)

test: setup-test
	KERAS_BACKEND=tensorflow $(PYTEST)
	KERAS_BACKEND=jax $(PYTEST) $(EVERY_BACKEND)
	@if python -c "import torch" 2> /dev/null; then echo "KERAS_BACKEND=torch $(PYTEST) $(EVERY_BACKEND)"; \
	  KERAS_BACKEND=torch $(PYTEST) $(EVERY_BACKEND); \
	  else echo "PyTorch is not installed, so its tests were not run; 'make torch test' runs them too."; fi

# make torch   add PyTorch and timm to the environment: `make test` and `make bench` then include them
torch: setup-test
	@$(PYTHON) tools/bootstrap.py torch
	@# Only timm.optim is used; timm's other needs (torchvision) would bring another PyTorch.
	@python -m pip install --quiet --no-deps -c requirements.lock timm

# make study   the studies of docs/results.md, what is not kept of them yet, and the longest tests
#              (hours; STUDY_ARGS=--mnist=FOLDER takes MNIST from its four .gz files)
study: setup-test
	python -m benchmarks.studies $(STUDY_ARGS)
	python -m pytest -m study $(TEST_ARGS)

# make bench   updates, training steps, input and scaling, against peers (docs/performance.md, docs/scaling.md)
bench: setup-test
	python -m benchmarks.update_step
	python -m benchmarks.train_step
	python -m benchmarks.input_pipeline
	python -m benchmarks.scaling --model=resnet20
	python -m benchmarks.scaling --bandwidth

# make lint    check the code's style (make format mends what it can)
lint: setup-test
	ruff check . && ruff format --check .
format: setup-test
	ruff check --fix . ; ruff format .

# make docs    the documentation as a web site in build/site
docs:
	@$(PYTHON) tools/bootstrap.py docs
	mkdocs build --strict --site-dir build/site

# make bazel   build every Bazel target and run the quick test target (needs bazel; Debian: bazel-bootstrap)
bazel: setup-test
	@command -v bazel > /dev/null || { echo "bazel is not installed (Debian: apt-get install bazel-bootstrap)"; exit 1; }
	bazel build :all
	bazel test :test_schedules

# make clean   remove the environment and what was built (runs/ and the cache of Horovod wheels stay)
clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
