"""Package metadata. Tool settings (pytest, ruff) are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

root = Path(__file__).parent
version = re.search(
    r'^__version__ = "(.+)"$', (root / "keras_cv_lectures" / "__init__.py").read_text(encoding="utf-8"), re.M
).group(1)

setup(
    name="keras_cv_lectures",
    version=version,
    description="The systems of the deep-vision lectures as Keras 3 models that train, export and run",
    long_description=(root / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    packages=find_packages(include=["keras_cv_lectures", "keras_cv_lectures.*", "kcvl"]),
    python_requires=">=3.11,<3.14",
    install_requires=[
        # Keras 3.15 changes behaviour in private places that training.multiworker repairs; see its canary test.
        "tensorflow>=2.21,<2.22",
        "keras>=3.15,<3.16",
        "ai-edge-litert>=2.3,<3",
        # SciPy and Matplotlib from the first ones on that were built for NumPy 2.
        "numpy>=2",
        # Grey PNGs of 16 bits are told from others since this one.
        "pillow>=10.3",
        "scipy>=1.13",
        "matplotlib>=3.8.4",
    ],
    extras_require={
        "coco": ["pycocotools>=2.0.8"],
        # METEOR and SPICE, which need a Java runtime too.
        "captions": ["pycocoevalcap>=1.2"],
        # Data sets that it has prepared (tfds:NAME).
        "data": ["tensorflow-datasets>=4.9.10"],
        # On a CPU; with a GPU install jax[cuda12] beside it.
        "jax": ["jax>=0.10"],
        "test": [
            "pycocotools>=2.0.8",
            "jax>=0.10",
            "tensorflow-datasets>=4.9.10",
            # With pytest 9.2 pytest-xdist 3.8 no longer knows its groups: every process makes every fixture.
            "pytest>=8,<9.2",
            "pytest-xdist>=3.8",
            "ruff>=0.6",
            "build>=1",
            "setuptools>=77",
            "wheel",
            "nbclient>=0.10",
            "nbformat>=5.10",
            "ipykernel>=6",
        ],
        "tensorboard": ["tensorboard>=2.20"],
    },
    entry_points={"console_scripts": ["kcvl=kcvl:main"]},
    classifiers=[
        "License :: OSI Approved :: MIT License",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
