"""The package as it installs: all folders in it, light to import, every dependency pinned."""

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
TOP = {"psrv": "psrv", "codec": "psrv.codec", "server": "psrv.server", "worker": "psrv.worker"}


def modules_after(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_every_folder_with_code_is_a_package_that_installs() -> None:
    on_disk = set()
    for folder, package in TOP.items():
        for path in (ROOT / folder).rglob("*.py"):
            inside = path.parent.relative_to(ROOT / folder).parts
            on_disk.add(".".join((package, *inside)))
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == on_disk


def test_every_package_has_an_init_module() -> None:
    folders = {package: folder for folder, package in TOP.items()}
    for package in PYPROJECT["tool"]["setuptools"]["packages"]:
        top = max((name for name in folders if f"{package}.".startswith(f"{name}.")), key=len)
        inside = package[len(top) :].replace(".", "/").strip("/")
        assert (ROOT / folders[top] / inside / "__init__.py").is_file(), package


def test_wheel_holds_the_four_folders_below_psrv_and_no_tests(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for folder in TOP:
        shutil.copytree(
            ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for folder, package in TOP.items():
        for path in (ROOT / folder).rglob("*.py"):
            inside = path.relative_to(ROOT / folder).as_posix()
            assert f"{package.replace('.', '/')}/{inside}" in names
    assert "psrv/py.typed" in names
    assert {name.partition("/")[0] for name in names} == {"psrv", wheel.name[:10] + ".dist-info"}


def test_importing_psrv_loads_nothing_heavy() -> None:
    assert modules_after("import psrv").isdisjoint({"torch", "numba", "zmq", "matplotlib"})


def test_server_needs_no_torch_and_no_scikit_learn() -> None:
    loaded = modules_after("import psrv.server.process")
    assert "zmq" in loaded
    assert loaded.isdisjoint({"torch", "sklearn"})  # numba itself looks for scipy


def test_installed_version_is_the_one_psrv_reports() -> None:
    import psrv

    version = PYPROJECT["project"]["version"]
    assert importlib.metadata.version("psrv") == version
    assert psrv.__version__ == version


@pytest.mark.parametrize("extra", ["", *PYPROJECT["project"]["optional-dependencies"]])
def test_every_dependency_has_one_tested_version_that_fits(extra: str) -> None:
    project = PYPROJECT["project"]
    wanted = project["optional-dependencies"][extra] if extra else project["dependencies"]
    pinned = {}
    for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines():
        if line.startswith("#"):
            continue
        exact = re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][0-9a-z.]*)", line)
        assert exact, f"not an exact version: {line}"
        name = exact[1].lower().replace("_", "-")
        assert name not in pinned, f"twice: {line}"
        pinned[name] = exact[2]
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(pinned[requirement.name.lower()]), str(requirement)
