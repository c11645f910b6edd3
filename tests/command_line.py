"""Calls of `kcvl` within the process of a test."""

from __future__ import annotations

import contextlib
import io

from kcvl import main


def call(*words) -> tuple[int, str, str]:
    """Runs a command; returns (exit code, standard output, standard error)."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:  # argparse
            code = stop.code
    return code, out.getvalue(), err.getvalue()
