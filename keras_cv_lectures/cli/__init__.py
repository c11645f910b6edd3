"""The command line: `kcvl list | demo | doctor | train | evaluate | predict | export | benchmark`.

Exit codes: 0 done; 1 the data, the model or the machine is at fault (the last line says what and how to repair it);
2 the command was not understood.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence

from keras_cv_lectures.cli.parser import make_parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. Returns the exit code."""
    arguments = make_parser().parse_args(argv)
    with _quiet():
        from keras_cv_lectures.cli import commands
    from keras_cv_lectures.errors import DataError, ModelError

    try:
        return commands.run(arguments)
    except (DataError, ModelError) as error:
        return _fail(error)
    except commands.UsageError as error:
        _fail(error)
        return 2
    except OSError as error:
        return _fail(f"{error}. Check the path, the permissions and the free space.")
    except KeyboardInterrupt:
        return _fail("interrupted. What was complete is kept; `kcvl train ... --resume` continues a training.")


def _fail(message: object) -> int:
    print(f"kcvl: {message}", file=sys.stderr)
    return 1


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Importing TensorFlow writes a dozen lines to the terminal from C++, whatever its log level says."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("MPLBACKEND", "Agg")
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # A program may run without standard error.
        yield
        return
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
