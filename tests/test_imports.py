"""Imports point one way, and heavy libraries stay in their rooms."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_surface import MODULES as ENTRY_POINTS

ROOT = Path(__file__).parent.parent
MODULES = sorted([*ROOT.glob("seg/**/*.py"), *ROOT.glob("experiments/**/*.py")])

# Who may import a library at all, a module or a room; every other module of the project may not.
ONLY = {
    "mlflow": {
        "experiments/tracking",
        "experiments/registry",
        "experiments/serving/scoring.py",  # MLflow's scoring server
    },
    "optuna": {"experiments/storage", "experiments/studies/search.py", "experiments/reports/plots.py"},
    # RayExecutor, the connection, and what the nodes fetch from Ray's object store.
    "ray": {
        "experiments/executors/ray.py",
        "experiments/executors/ray_cluster.py",
        "experiments/executors/ray_node.py",
    },
    "gradio": {"experiments/app.py", "experiments/web_page/layout.py"},  # the latter where the page is started
    # The demo writes run lengths, masks.py reads them, and overlapping.py merges them.
    "pycocotools": {"seg/data/masks.py", "seg/data/demo.py", "seg/data/audit/overlapping.py"},
}


def imported(path: Path) -> set[str]:
    """The modules that a file imports anywhere, by their full names."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def imports(path: Path, package: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for name in imported(path))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    if path.is_relative_to(ROOT / "seg"):
        for upward in ("experiments", "mlflow", "optuna", "ray", "argparse"):
            assert not imports(path, upward), f"{path} imports {upward}"


@pytest.mark.parametrize("library", ONLY)
def test_one_room_talks_to_each_library(library: str) -> None:
    found = [str(path.relative_to(ROOT)) for path in MODULES if imports(path, library)]
    unused = set(ONLY[library])
    for path in found:
        allowed = {path, path.rpartition("/")[0]} & ONLY[library]
        assert allowed, f"{path} imports {library}"
        unused -= allowed
    assert not unused


def test_entry_points_start_without_heavy_libraries() -> None:
    # `--help` must answer at once, and the driver must never hold a GPU. In one process: each takes seconds to import.
    script = (
        f"import importlib, sys\nfor module in {list(ENTRY_POINTS.values())}:\n"
        "    importlib.import_module(module)\n"
        "    print(module, [name for name in ('tensorflow', 'keras', 'torch', 'gradio') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == [f"{module} []" for module in ENTRY_POINTS.values()]
