"""Files: written so that a killed process or a full disk never leaves half of one, read as if anybody wrote them."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from keras_cv_lectures.errors import DataError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_UNFINISHED = ".writing-"
_ATTEMPTS = 1000


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path beside `path`; what was written there replaces `path` only if the block succeeds.

    Works for a file or a folder. The temporary name keeps the suffixes of `path`, because Keras chooses its format by
    them. Whatever the block wrote is removed if it raises, and `path` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=path.parent))
    target, old = work / path.name, work / f"{path.name}.old"
    try:
        yield target
        if not target.exists():
            raise FileNotFoundError(f"nothing was written for {path}")
        if target.is_dir() and path.exists():
            # A folder cannot be replaced by rename while it has content: move the old one aside first.
            os.replace(path, old)
        os.replace(target, path)
    finally:
        # A rename that fails, or a signal between the two, must not cost the old folder as well.
        if os.path.lexists(old) and not os.path.lexists(path):
            os.replace(old, path)
        shutil.rmtree(work, ignore_errors=True)


@contextlib.contextmanager
def locked(path: str | os.PathLike, busy: Callable[[], Any]) -> Iterator[None]:
    """Holds a lock on the file `path` while the block lasts, for one process or thread at a time.

    The file is made where there is none, and is removed in the end if it is empty. The lock ends with its process,
    however that ends. Where there are no locks (Windows, some network disks), nobody is kept out.

    Args:
        path: of the file; its folder exists.
        busy: called if somebody else holds the lock; it may raise, else the lock is waited for.
    """
    if fcntl is None:
        yield
        return
    path = Path(path)
    for attempt in itertools.count(1):
        with _opened(path) as held:
            # Who had the lock before has moved the file away, or deleted it: what is held then is no longer `path`.
            # Or the disk numbers its files anew each time it is asked, which no attempt will change.
            if _lock(held, busy) and attempt < _ATTEMPTS and not _is_at(held, path):
                continue
            try:
                yield
            finally:
                if path.exists() and not path.stat().st_size:
                    with contextlib.suppress(PermissionError):  # Of somebody else, in a folder that keeps his files.
                        path.unlink()
            return


def _opened(path: Path) -> IO[bytes]:
    """The file to lock, which is made where there is none, and may be one that somebody else's process left."""
    try:
        return path.open("ab")
    except PermissionError:
        if not path.exists():
            raise
        return path.open("rb")  # All that a lock needs.


def _lock(held: IO[bytes], busy: Callable[[], Any]) -> bool:
    """Waits for the lock; False at once on a disk that knows none."""
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        busy()
        fcntl.flock(held, fcntl.LOCK_EX)
    except OSError:
        return False
    return True


def _is_at(held: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(held.fileno()), path.stat())
    except FileNotFoundError:
        return False


def remove_unfinished(folder: str | os.PathLike) -> None:
    """Removes what `atomic_path` left in `folder` in a process that was killed; nobody else may be writing there."""
    for work in Path(folder).glob(f"{_UNFINISHED}*"):
        shutil.rmtree(work, ignore_errors=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes `text` as UTF-8, all of it or nothing."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes `value` as indented JSON, all of it or nothing."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def digest(path: str | os.PathLike) -> str:
    """SHA-256 of the content of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_bytes(
    path: str | os.PathLike, *, what: str = "", repair: str = "Check the path.", error: type[ValueError] = DataError
) -> bytes:
    """The content of a file from an unknown origin.

    Args:
        path: of the file.
        what: stands before the path in the message, such as "the label file".
        repair: ends the message.
        error: the class of the error.

    Raises:
        DataError: (or `error`) it cannot be read, or is a folder, a pipe or a device, which may have no end.
    """
    name = f"{what} {path}".strip()
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise OSError("it is no ordinary file")
        return Path(path).read_bytes()
    except (OSError, ValueError) as fault:  # ValueError: a zero in the path.
        reason = getattr(fault, "strerror", None) or fault
        raise error(f"{name} cannot be read ({reason}). {repair}") from fault


def read_text(
    path: str | os.PathLike, *, what: str = "", repair: str = "Check the path.", error: type[ValueError] = DataError
) -> str:
    """UTF-8 text without a byte order mark; arguments as of `read_bytes`.

    Raises:
        DataError: (or `error`) it cannot be read, or is no UTF-8 text.
    """
    content = read_bytes(path, what=what, repair=repair, error=error)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        line = content[: fault.start].count(b"\n") + 1
        name = f"{what} {path}".strip()
        told = f"cannot be read, for it is no UTF-8 text: line {line} ({fault.reason})"
        raise error(f"{name} {told}. {repair}") from fault


def read_json(
    path: str | os.PathLike,
    *,
    what: str = "",
    repair: str = "Export or copy it again.",
    error: type[ValueError] = DataError,
) -> Any:
    """The value in a JSON file; arguments as of `read_bytes`.

    Raises:
        DataError: (or `error`) it cannot be read, is no JSON, is nested too deeply, or holds texts that are no Unicode
            (half of a surrogate pair), which could be neither shown nor written again.
    """
    content = read_bytes(path, what=what, repair=repair, error=error)
    try:
        value = json.loads(content)
        if re.search(rb"\\u[dD][89a-fA-F]", content):
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as fault:
        name = f"{what} {path}".strip()
        raise error(f"{name} is no valid JSON ({fault}). {repair}") from fault
    return value
