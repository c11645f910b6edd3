"""The examples in docstrings give what they say."""

from __future__ import annotations

import ast
import contextlib
import doctest
import importlib
import io
import re
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_cv_lectures

PACKAGE = Path(keras_cv_lectures.__file__).parent
# Go on from another example, or take files.
_WORDS = re.compile(r"\b(?:True|False|None)\b")
ELSEWHERE = {"flat_argmax", "MaxUnpool", "predict"}


def _examples():
    """(module, what is documented, its examples) where the docstring says what comes out."""
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if ">>> " not in text:
            continue
        module = ".".join(("keras_cv_lectures", *path.relative_to(PACKAGE).with_suffix("").parts))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name not in ELSEWHERE:
                examples = doctest.DocTestParser().get_examples(ast.get_docstring(node) or "")
                if any(example.want for example in examples):
                    yield pytest.param(module, examples, id=f"{module}.{node.name}")


def _numbers(text):
    """All numbers of a text but those of shapes and types that arrays are printed with."""
    text = re.sub(r"shape=\([^)]*\)|dtype=\w+|<tf\.Tensor|numpy=", "", text)
    return [float(number) for number in re.findall(r"-?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?", text)]


@pytest.mark.parametrize(("module", "examples"), list(_examples()))
def test_examples_give_what_they_say(module, examples):
    names = {**vars(importlib.import_module(module)), "np": np, "keras": keras}
    for example in examples:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(example.source, module, "single"), names)
        got, want = printed.getvalue(), example.want
        # Docstrings write arrays as lists, and round them.
        if want.strip() != got.strip():
            assert _numbers(want), (want, got)
            assert _WORDS.findall(got) == _WORDS.findall(want), (want, got)
            np.testing.assert_allclose(_numbers(got), _numbers(want), atol=2e-3, err_msg=f"{example.source}{got}")
