# make train   set up, then train ResNet-20 with LARS on real digits, two Horovod workers
# make test    set up, then run the tests
PYTHON ?= $(or $(shell command -v python3.11),$(shell command -v python3),python3)
VENV := .venv/bin
RUN_DIR ?= runs/digits_resnet20_lars_b512
TEST_ARGS ?=
BACKEND_TESTS := tests/optimizers tests/schedules
quiet := TF_CPP_MIN_LOG_LEVEL=3

.PHONY: help train test bench study lint format docs bazel lock clean setup setup-test

help:
	@sed -n 's/^# make/make/p' Makefile

setup:
	@$(PYTHON) tools/bootstrap.py horovod
setup-test:
	@$(PYTHON) tools/bootstrap.py horovod test

train: setup
	@$(VENV)/python -m trainers.launch -np 2 --flagfile=configs/digits_resnet20_lars_b512.flags --run_dir=$(RUN_DIR)

test: setup-test
	$(quiet) KERAS_BACKEND=tensorflow $(VENV)/python -m pytest -m "not study" $(TEST_ARGS)
	$(quiet) KERAS_BACKEND=jax $(VENV)/python -m pytest -m "not study" $(BACKEND_TESTS) $(TEST_ARGS)

# make lint    check the code's style (make format mends what it can)
lint: setup-test
	$(VENV)/ruff check . && $(VENV)/ruff format --check .
format: setup-test
	$(VENV)/ruff check --fix . ; $(VENV)/ruff format .

# make clean   remove the environment and what was built (runs/ and the cache of Horovod wheels stay)
clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
