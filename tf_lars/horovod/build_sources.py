"""Horovod's source, mended for the installed TensorFlow."""

import importlib.util
import shutil
from pathlib import Path

REVISION = 1  # of the mends here: another one makes wheels anew

# What Horovod's XLA operations include. They exist for GPUs alone: without GPUs the file's body is
# empty, and empty headers in front of the others let its includes pass on every TensorFlow.
_XLA_HEADERS = {
    "tensorflow/compiler/tf2xla/xla_op_kernel.h": None,
    "tensorflow/compiler/tf2xla/xla_op_registry.h": None,
    "tensorflow/compiler/xla/client/xla_builder.h": "xla/hlo/builder/xla_builder.h",
    "tensorflow/compiler/xla/service/custom_call_target_registry.h": (
        "xla/service/custom_call_target_registry.h"
    ),
    "tensorflow/compiler/xla/service/hlo.pb.h": "xla/service/hlo.pb.h",
    "tensorflow/compiler/xla/shape.h": "xla/shape.h",
    "tensorflow/compiler/xla/xla_data.pb.h": "xla/xla_data.pb.h",
}
_XLA_SOURCE = "horovod/tensorflow/xla_mpi_ops.cc"
_GLOO_SOURCE = "horovod/common/gloo/gloo_controller.cc"


def prepare_source(sdist, folder, nccl):
    """Unpacks the source and mends it for this TensorFlow; returns (source, CXXFLAGS)."""
    shutil.unpack_archive(sdist, folder)  # its checksum was checked
    source = folder / sdist.name.removesuffix(".tar.gz")
    _mend_stall_check(source / _GLOO_SOURCE)
    if nccl:
        _mend_xla_source(source / _XLA_SOURCE)
        return source, ""
    for header in _XLA_HEADERS:
        path = folder / "include" / header
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return source, f"-I{folder / 'include'}"


def _mend_stall_check(path):
    """Under Gloo the stall check never finds a missing rank: its list of ranks keeps size 0."""
    text = path.read_text()
    mended = text.replace("global_ranks_.reserve(size_);", "global_ranks_.resize(size_);")
    if mended == text:
        raise ValueError(f"{path} is not the file that this mends")
    path.write_text(mended)


def _mend_xla_source(path):
    """Points the includes to where this TensorFlow keeps them (they moved after 2.18)."""
    spec = importlib.util.find_spec("tensorflow")
    include = Path(spec.submodule_search_locations[0]) / "include"
    text = path.read_text()
    moved = {old: new for old, new in _XLA_HEADERS.items() if new and not (include / old).exists()}
    for old, new in moved.items():
        text = text.replace(f'"{old}"', f'"{new}"')
    if moved:
        text = text.replace("::xla::StatusOr", "::absl::StatusOr")
    path.write_text(text)
