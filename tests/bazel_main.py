"""Runs pytest on the folders named as arguments: the entry point of the Bazel test targets."""

import sys

import pytest

if __name__ == "__main__":
    sys.exit(pytest.main(["-p", "no:cacheprovider", "-m", "not study", *sys.argv[1:]]))
