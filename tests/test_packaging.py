"""What is installed: every file, beside other people's packages, with NumPy alone, and quick to import."""

import ast
import importlib.metadata
import shutil
import statistics
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest

import gpucnn.kernels

ROOT = Path(__file__).parent.parent
PARTS = ("kernels", "reference", "bench")
MAY_IMPORT = {"kernels": {"kernels"}, "reference": {"reference"}, "bench": set(PARTS)}
IGNORED = shutil.ignore_patterns(*(line.rstrip("/") for line in (ROOT / ".gitignore").read_text().split()))


def run(*command: str | Path) -> str:
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of what a clone holds, so that no leftover of an earlier build can complete it."""
    folder = tmp_path_factory.mktemp("wheel")
    clone = folder / "clone"
    clone.mkdir()
    for part in PARTS:
        shutil.copytree(ROOT / part, clone / part, ignore=IGNORED)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, clone)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, clone)
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_holds_every_file(wheel):
    clone = wheel.parent / "clone"
    expected = {
        f"gpucnn/{path.relative_to(clone).as_posix()}"
        for part in PARTS
        for path in (clone / part).rglob("*")
        if path.is_file()
    }
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == expected


def test_wheel_works_with_numpy_alone_beside_another_package_named_kernels(wheel, tmp_path):
    venv.create(tmp_path / "venv")
    python = tmp_path / "venv/bin/python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    other = site / "kernels/__init__.py"
    other.parent.mkdir()
    other.write_text("WHOSE = 'another project'\n")

    libraries = tmp_path / "libraries"
    libraries.mkdir()
    for name in ("numpy", "numpy.libs"):
        (libraries / name).symlink_to(Path(np.__file__).parents[1] / name)
    (site / "libraries.pth").write_text(f"{libraries}\n")

    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    program = """
import importlib.util
import kernels, numpy as np
from gpucnn.kernels import conv2d, max_pool2d

assert kernels.WHOSE == "another project"
assert not any(importlib.util.find_spec(name) for name in ("torch", "cupy", "triton", "pandas", "typer"))
y = conv2d(np.ones((1, 3, 8, 8), np.float32), np.ones((4, 3, 3, 3), np.float32), padding=1)
assert y.shape == (1, 4, 8, 8) and y[0, 0, 4, 4] == 27 and y[0, 0, 0, 0] == 12
assert max_pool2d(y, 2).shape == (1, 4, 4, 4)
"""
    run(python, "-I", "-c", program)
    assert other.read_text() == "WHOSE = 'another project'\n"


def test_import_is_quick_and_light():
    """Processor time, since other tests run beside this one; median of five fresh processes."""
    program = """
import sys, time
start = time.process_time()
import gpucnn.kernels
print(time.process_time() - start)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""
    outputs = [run(sys.executable, "-c", program).splitlines() for _ in range(5)]
    assert statistics.median(float(seconds) for seconds, _ in outputs) < 0.2
    assert not {"torch", "cupy", "triton", "pandas", "typer", "rich"} & set(outputs[0][1].split())


def imports(path: Path) -> set[str]:
    """The parts of the project that a module imports, absolute imports of them named as such."""
    found = set()
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.partition(".")[0] == "gpucnn"}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {node.module} if node.module and node.module.partition(".")[0] == "gpucnn" else set()
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level]
            target = (*base, *(node.module or "").split(".")) if node.module else base
            found |= {target[0]} if target else {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("part", PARTS)
def test_imports_go_one_way_and_are_relative(part):
    wrong = {path: imports(path) - MAY_IMPORT[part] for path in (ROOT / part).rglob("*.py")}
    assert not {str(path.relative_to(ROOT)): names for path, names in wrong.items() if names}


def test_one_version():
    assert importlib.metadata.version("gpucnn") == gpucnn.kernels.__version__
