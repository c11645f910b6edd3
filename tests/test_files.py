"""Files that are replaced: all of the new one, or all of the old one."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from keras_cv_lectures import files
from keras_cv_lectures.files import atomic_path, locked


@pytest.fixture
def folder(tmp_path):
    """A folder that is to be replaced."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old.txt").write_text("old")
    return tmp_path / "model"


def replace(path):
    with atomic_path(path) as temporary:
        temporary.mkdir()
        (temporary / "new.txt").write_text("new")


def test_a_folder_replaces_a_folder(folder):
    replace(folder)
    assert [path.name for path in folder.rglob("*")] == ["new.txt"]
    assert os.listdir(folder.parent) == ["model"]


@pytest.mark.parametrize("fault", [OSError("busy"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("done", [1, 2])
def test_a_folder_is_not_lost_between_two_renames(folder, monkeypatch, fault, done):
    """The fault comes when the first rename is done, or instead of the second one."""
    rename, calls = os.replace, []

    def faulty(source, target):
        calls.append(source)
        if len(calls) == 2 and done == 2:
            raise fault
        rename(source, target)
        if len(calls) == 1 and done == 1:
            raise fault

    monkeypatch.setattr(os, "replace", faulty)
    with pytest.raises(type(fault)):
        replace(folder)
    assert (folder / "old.txt").read_text() == "old"
    assert os.listdir(folder.parent) == ["model"]


def test_a_folder_that_cannot_be_put_back_is_kept(folder, monkeypatch):
    rename, calls = os.replace, []

    def faulty(source, target):
        calls.append(source)
        if len(calls) > 1:
            raise PermissionError(target)
        rename(source, target)

    monkeypatch.setattr(os, "replace", faulty)
    with pytest.raises(PermissionError):
        replace(folder)
    (kept,) = folder.parent.rglob("old.txt")
    assert kept.read_text() == "old"


def _entered(path):
    """How often `path` was opened until its lock was held, or done without."""
    opened, before = [], files._opened

    def counted(path):
        opened.append(path)
        return before(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_opened", counted)
        with locked(path, lambda: pytest.fail("nobody holds it")):
            pass
    return len(opened)


@pytest.mark.skipif(files.fcntl is None, reason="no locks here")
def test_disks_without_locks_or_lasting_numbers_keep_nobody_waiting(tmp_path, monkeypatch):
    monkeypatch.setattr(os.path, "samestat", lambda one, other: False)
    monkeypatch.setattr(files, "_ATTEMPTS", 5)
    assert _entered(tmp_path / "numbers") == 5

    def no_locks(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", no_locks)
    assert _entered(tmp_path / "locks") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(files.fcntl is None, reason="no locks here")
def test_what_a_killed_process_of_somebody_else_left_is_locked_all_the_same(tmp_path, monkeypatch):
    """The file can be read and not written; in a folder such as /tmp it cannot be deleted either."""
    path, before = tmp_path / "lock", Path.open

    def refused(self, mode="r", **more):
        if mode == "ab":
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return before(self, mode, **more)

    def kept(self):
        raise PermissionError(errno.EPERM, "Operation not permitted", str(self))

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(PermissionError), locked(path, lambda: None):
        pass
    path.touch()
    asked = []
    with locked(path, lambda: None):
        with pytest.raises(KeyError), locked(path, lambda: {}[asked.append("busy")]):
            pass
        monkeypatch.setattr(Path, "unlink", kept)
    assert asked == ["busy"]
    assert path.exists()
