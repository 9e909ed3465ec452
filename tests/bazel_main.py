"""Runs pytest on the folders named as arguments: the entry point of the Bazel test targets."""

import os
import sys

# Bazel starts this file by its path, which puts its folder first: `packaging` there is ours.
sys.path = [path for path in sys.path if os.path.basename(path) != "tests"]

import pytest  # noqa: E402

if __name__ == "__main__":
    sys.exit(pytest.main(["-p", "no:cacheprovider", "-m", "not study", *sys.argv[1:]]))
