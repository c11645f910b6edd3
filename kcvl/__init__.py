"""The command line: `kcvl list | demo | doctor | vocab | train | evaluate | predict | export | benchmark`.

A package of its own beside `keras_cv_lectures`, so that `kcvl --help` answers before TensorFlow is imported, and what
TensorFlow writes to the terminal while it is imported can be hidden.

Exit codes: 0 done; 1 the data, the model or the machine is at fault (the last line says what and how to repair it);
2 the command was not understood.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import sys
from collections.abc import Sequence

from kcvl.advice import after_interruption, for_full_memory
from kcvl.parser import UsageError, make_parser
from kcvl.terminal import own_warnings, quiet


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. Returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = make_parser().parse_args(words)
    arguments.words = words
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        return _fail(f"interrupted. {after_interruption(arguments)}")


def _run(arguments: argparse.Namespace) -> int:
    try:
        _import_tensorflow()
        from kcvl import commands
        from keras_cv_lectures.errors import DataError, ModelError
    except ImportError as error:
        reason = str(error).partition("\n")[0]  # Of a broken TensorFlow it is a page.
        return _fail(
            f"a library that it needs cannot be imported: {reason}. Install kcvl again, and what it needs with it, for "
            f"{sys.executable}: `pip install .` in its folder."
        )
    try:
        with own_warnings():
            return commands.run(arguments)
    except UsageError as error:
        _fail(f"{str(error).rstrip('.')}. See `kcvl {arguments.command} --help`.")
        return 2
    except (DataError, ModelError) as error:
        return _fail(error)
    except BrokenPipeError:  # The reader of a pipe, such as `head`, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except OSError as error:
        return _fail(f"{error}. Check the path, the permissions and the free space.")
    except MemoryError:
        return _fail(f"the memory is full. {for_full_memory(arguments.command)}")


def _fail(message: object) -> int:
    print(f"kcvl: {message}", file=sys.stderr)
    return 1


def _import_tensorflow() -> None:
    """TensorFlow's first words: a dozen lines from C++, some of them whatever its log level."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("MPLBACKEND", "Agg")
    # As `keras_cv_lectures` does, which is imported after TensorFlow here.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    if not faulthandler.is_enabled():
        # A crash in C++ is then told with the Python line that led to it, even where C++ itself was silenced.
        faulthandler.enable(file=os.dup(2))
    with quiet():
        import tensorflow as tf

        tf.config.list_physical_devices()  # Looks for GPUs, and complains where there are none.
        # Its warnings are advice to who writes the program, such as on pictures of many sizes.
        tf.get_logger().setLevel("ERROR")
