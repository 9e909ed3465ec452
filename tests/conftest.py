"""Keeps the tests quiet and picks the test files that fit Keras's backend."""

import importlib.util
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("MPLBACKEND", "Agg")

collect_ignore_glob = [
    f"**/test_{backend}_*.py"
    for backend in ("tensorflow", "jax")
    if os.environ["KERAS_BACKEND"] != backend
]
if importlib.util.find_spec("torch") is None:
    collect_ignore_glob.append("**/test_torch_*.py")
