"""The compiler and the libraries that Horovod is built with: found, or what to install."""

import importlib.util
import os
import shlex
import shutil
import sys
from pathlib import Path

BUILD_MODULES = ("cffi", "cloudpickle", "packaging", "psutil", "setuptools", "wheel", "yaml")


class BuildError(Exception):
    """A reason why Horovod cannot be built here, and the fix."""


def environment(**extra):
    """The processes' environment: this interpreter's programs first on PATH."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return os.environ | {"PATH": path} | extra


def check_tools(nccl, mpi, cuda_home=None, nccl_home=None):
    """Looks for everything the build needs, before anything is downloaded.

    Returns:
        The environment variables of a GPU build, or none.

    Raises:
        BuildError: if something is missing, with what to install.
    """
    missing = [name for name in BUILD_MODULES if importlib.util.find_spec(name) is None]
    if importlib.util.find_spec("pip") is None:
        missing.append("pip")
    path = environment()["PATH"]
    if shutil.which("cmake", path=path) is None and "HOROVOD_CMAKE" not in os.environ:
        missing.append("cmake")
    if missing:
        raise BuildError(
            f"The build needs {', '.join(missing)}: pip install '.[horovod]' in a clone brings "
            "them."
        )
    compiler = os.environ.get("CXX")  # may hold arguments: "ccache g++"
    names = shlex.split(compiler)[:1] if compiler else ["c++", "g++"]
    if not any(shutil.which(name, path=path) for name in names):
        raise BuildError(
            f"No C++ compiler found ({f'CXX={compiler}' if compiler else 'c++ or g++'}): install "
            "one (Debian: apt-get install g++) or set CXX."
        )
    if mpi and shutil.which("mpicxx", path=path) is None:
        raise BuildError(
            "--mpi was asked for and no MPI is here (mpicxx): install one (Debian: apt-get install "
            "libopenmpi-dev) or leave --mpi away; Gloo needs nothing."
        )
    return _gpu_environment(cuda_home, nccl_home) if nccl else {}


def _gpu_environment(cuda_home, nccl_home):
    cuda = _find_cuda(cuda_home)
    include, library = _find_nccl(cuda, nccl_home)
    return {
        "HOROVOD_GPU": "CUDA",
        "HOROVOD_GPU_OPERATIONS": "NCCL",
        "HOROVOD_CUDA_HOME": str(cuda),
        "HOROVOD_NCCL_INCLUDE": str(include),
        "HOROVOD_NCCL_LIB": str(library),
        "HOROVOD_NCCL_LINK": "SHARED",
        "LDFLAGS": f"{os.environ.get('LDFLAGS', '')} -Wl,-rpath,{library}".strip(),
    }


def _find_cuda(cuda_home):
    nvcc = shutil.which("nvcc")
    candidates = [
        cuda_home,
        *([] if cuda_home else [os.environ.get("CUDA_HOME"), "/usr/local/cuda"]),
        *([Path(nvcc).resolve().parent.parent] if nvcc and not cuda_home else []),
    ]
    for candidate in filter(None, candidates):
        if (Path(candidate) / "bin" / "nvcc").exists():
            return Path(candidate)
    looked = ", ".join(str(c) for c in candidates if c)
    raise BuildError(
        f"--nccl was asked for and no CUDA toolkit was found (bin/nvcc in {looked}): install it or "
        "name it with --cuda_home=DIR."
    )


def _find_nccl(cuda, nccl_home):
    """NCCL's include and library folders: a given one, the system's, or pip's nvidia-nccl."""
    if nccl_home:
        homes = [Path(nccl_home)]
    else:
        homes = [Path(p) / "nvidia" / "nccl" for p in sys.path if p] + [cuda, Path("/usr")]
    for home in homes:
        libraries = [home / "lib", home / "lib64", *home.glob("lib/*-linux-gnu")]
        for library in libraries:
            if (home / "include" / "nccl.h").exists() and list(library.glob("libnccl.so*")):
                return home / "include", library
    raise BuildError(
        "--nccl was asked for and NCCL was not found (include/nccl.h and lib/libnccl.so in "
        f"{', '.join(map(str, homes))}): install it or name it with --nccl_home=DIR."
    )
