"""What a user installs: wheel and sdist, the console script, the time an import adds."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile

import pytest
from conftest import ROOT


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """(wheel, sdist) built from the sources that git would give a stranger."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
    )
    return next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))


@pytest.mark.slow
def test_wheel_and_sdist_hold_the_package_and_no_more(distributions):
    wheel, sdist = distributions
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    modules = {str(p.relative_to(ROOT)) for p in (ROOT / "keras_cv_lectures").rglob("*.py")}
    assert modules <= set(names)
    assert all(name.startswith(("keras_cv_lectures", "kcvl")) for name in names)
    with tarfile.open(sdist) as archive:
        assert any(name.endswith("/LICENSE") for name in archive.getnames())


@pytest.mark.slow
@pytest.mark.parametrize("kind", [0, 1], ids=["wheel", "sdist"])
def test_installs_into_an_empty_environment_and_runs(distributions, tmp_path, kind):
    """The dependencies, two gigabytes, are lent by the environment of the tests; the package itself is installed."""
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env/bin/python"
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    with open(f"{site}/borrowed.pth", "w", encoding="utf-8") as file:
        file.write(sysconfig.get_paths()["purelib"] + "\n")
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--force-reinstall",
         str(distributions[kind])],
        check=True, capture_output=True,
    )  # fmt: skip
    code = "import keras_cv_lectures as k; print(k.__file__)"
    where = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path).stdout
    assert where.startswith(str(tmp_path))
    listed = subprocess.run(
        [tmp_path / "env/bin/kcvl", "list"], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    assert "31,030,658" in listed.stdout
    assert listed.stderr == ""
