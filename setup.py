"""Packaging of tf-lars. Exact versions of a tested environment are in requirements.lock."""

from pathlib import Path

from setuptools import find_packages, setup

# The range that the tests were run for.
TENSORFLOW = "tensorflow>=2.21,<2.22"
HOROVOD_BUILD = [
    # What `python -m tf_lars.horovod.build` needs to compile Horovod, besides a C++ compiler.
    "cffi", "cloudpickle", "cmake<4", "packaging", "psutil", "pyyaml", "setuptools<81", "wheel",
]  # fmt: skip

setup(
    name="tf-lars",
    version="0.1.0",
    description="Large-batch training on Keras 3: LARS, LAMB, CLARS, a working Horovod, trainers",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=[*find_packages(include=["tf_lars*", "trainers*"]), "trainers.configs"],
    package_dir={"trainers.configs": "configs"},
    package_data={"trainers.configs": ["*.flags"]},
    install_requires=[
        "absl-py>=2.1",
        "importlib_resources",  # tensorflow-datasets needs it and does not say so
        "keras>=3.15,<3.16",
        "matplotlib>=3.8",
        "numpy>=1.26",
        "rich>=13",
        "scikit-learn>=1.4",
        TENSORFLOW,
        "tensorboard>=2.20",
        "tensorflow-datasets>=4.9.9",
    ],
    extras_require={
        "horovod": HOROVOD_BUILD,
        "gpu": [TENSORFLOW.replace("tensorflow", "tensorflow[and-cuda]")],
        "test": ["hypothesis", "jax", "optax", "pytest", "pytest-timeout", "ruff"],
        "bench": ["jax", "optax"],
        "torch": ["torch"],
        "docs": ["mkdocs>=1.6"],
    },
    entry_points={
        "console_scripts": [
            "tf-lars-train=trainers.train:main",
            "tf-lars-plan=trainers.plan:main",
            "tf-lars-evaluate=trainers.evaluate:main",
            "tf-lars-report=trainers.report:main",
            "tf-lars-export=trainers.export:main",
            "tf-lars-build-horovod=tf_lars.horovod.build:cli",
            "tf-lars-run=tf_lars.horovod.run:main",
        ]
    },
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
