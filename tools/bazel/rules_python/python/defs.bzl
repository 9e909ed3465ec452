"""Bazel 4's own Python rules under the name that today's Bazel loads them from."""

py_binary = native.py_binary
py_library = native.py_library
py_test = native.py_test
