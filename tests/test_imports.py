"""Who may look into whom: read from the imports themselves."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("fedderm", "sites", "strategies")
FORBIDDEN = {
    "sites": {"torch", "torchvision", "timm", "flwr", "ray", "fedderm", "strategies"},
    "strategies": {"torch", "torchvision", "timm", "ray", "sites", "fedderm", "pandas"},
    "fedderm/evaluation": {"torch", "torchvision", "timm", "flwr", "ray", "strategies"},
    "fedderm/papers": {"torch", "torchvision", "timm", "flwr", "ray", "strategies"},
    "fedderm/report": {"torch", "torchvision", "timm", "flwr", "ray", "strategies"},
}


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imported(path: Path, *, lazy: bool) -> Iterator[str]:
    """Yield the modules a file imports; with ``lazy`` those inside functions, too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    checked_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if id(node) in checked_only or (not lazy and id(node) in inside):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            name = node.module or ""
            yield name
            yield from (f"{name}.{alias.name}" for alias in node.names if f"{name}.{alias.name}" in MODULES)


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_a_room_does_not_look_where_it_must_not(folder: str) -> None:
    for path in sorted((ROOT / folder).rglob("*.py")):
        found = {name.split(".")[0] for name in imported(path, lazy=True)} & FORBIDDEN[folder]
        assert not found, f"{path.relative_to(ROOT)} imports {', '.join(sorted(found))}"


def test_no_import_cycles() -> None:
    graph = {
        name: {one for one in imported(path, lazy=False) if one in MODULES and one != name}
        for name, path in MODULES.items()
    }
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError
    assert len(order) == len(MODULES)


def test_evaluation_looks_only_at_itself_and_at_the_diagnoses() -> None:
    for path in sorted((ROOT / "fedderm" / "evaluation").rglob("*.py")):
        ours = {name for name in imported(path, lazy=True) if name.split(".")[0] in PACKAGES}
        strangers = {n for n in ours if not n.startswith(("fedderm.evaluation", "sites.diagnoses"))}
        assert not strangers, f"{path.relative_to(ROOT)} imports {', '.join(sorted(strangers))}"


def test_the_command_line_imports_nothing_heavy() -> None:
    heavy = {"torch", "flwr", "ray", "pandas", "numpy", "rich", "pydantic"}
    light = (
        "",
        ".commands",
        ".deploy",
        ".hospital_commands",
        ".pattern_commands",
        ".site_commands",
        ".errors",
    )
    for name in (f"fedderm.cli{part}" for part in light):
        found = {one.split(".")[0] for one in imported(MODULES[name], lazy=False)} & heavy
        assert not found, f"{name} imports {', '.join(sorted(found))}"


def test_lines_and_files_stay_readable() -> None:
    for name, path in MODULES.items():
        lines = path.read_text(encoding="utf-8").count("\n")
        assert lines <= 300, f"{name} has {lines} lines; a room has 100 to 250"
