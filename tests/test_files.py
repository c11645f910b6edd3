"""Files that are replaced: all of the new one, or all of the old one."""

from __future__ import annotations

import os

import pytest

from keras_cv_lectures.files import atomic_path


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
