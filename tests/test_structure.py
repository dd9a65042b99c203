"""The house's rules: imports go one way, in no circle, and what may be imported where."""

import ast
from collections import Counter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "tlcli"
ORDER = [
    "runtime",
    "data",
    "metrics",
    "backbones",
    "features",
    "planning",
    "artifacts",
    "inference",
    "training",
    "runs",
    "recipes",
    "cli",
]
MODULES = sorted(PACKAGE.rglob("*.py"))
NAMES = {
    ".".join(("tlcli", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    for path in MODULES
}


def imports(path):
    """The dotted names that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_modules(path):
    """The package's own modules that a module imports."""
    for name in imports(path):
        if name.split(".")[0] == "tlcli":
            yield name if name in NAMES else name.rpartition(".")[0]


def layer(parts):
    """The folder's place in the order; -1 for what lies below all of them."""
    if parts[1:2] == ("transfer",) or parts[1:2] == ["transfer"]:
        return len(ORDER)  # a shim for scripts of earlier versions, which nothing here imports
    return ORDER.index(parts[1]) if len(parts) > 2 or (parts[1:] and parts[1] in ORDER) else -1


def relative(path):
    return str(path.relative_to(PACKAGE))


def test_every_folder_has_its_place_in_the_order():
    folders = {p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert folders - {"transfer"} == set(ORDER)


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_imports_go_one_way(path):
    parts = ("tlcli", *path.relative_to(PACKAGE).parts)
    if len(parts) == 2 and path.name in ("__init__.py", "__main__.py"):
        return  # the package's face and its door name everything
    here = layer(parts) if len(parts) > 2 else -1
    for name in imported_modules(path):
        assert name in NAMES, f"{relative(path)} imports {name}, which does not exist"
        assert name != "tlcli", f"{relative(path)} imports the package's face"
        there = layer(name.split("."))
        assert there <= here, f"{relative(path)} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_typer_and_rich_are_imported_by_the_command_line_alone(path):
    if path.relative_to(PACKAGE).parts[0] != "cli":
        assert not {"typer", "rich"} & {name.split(".")[0] for name in imports(path)}


def test_no_modules_import_each_other_in_a_circle():
    graph = {}
    for path in MODULES:
        parts = ("tlcli", *path.relative_to(PACKAGE).with_suffix("").parts)
        name = ".".join(parts).removesuffix(".__init__")
        graph[name] = set(imported_modules(path)) - {name} if name != "tlcli" else set()
    done, trail = set(), []

    def visit(name):
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name in done:
            return
        trail.append(name)
        for other in sorted(graph[name]):
            visit(other)
        done.add(trail.pop())

    for name in sorted(graph):
        visit(name)


def test_no_folder_holds_too_much():
    lines, modules = Counter(), Counter()
    for path in MODULES:
        parts = path.relative_to(PACKAGE).parts
        lines[parts[0] if len(parts) > 1 else ""] += len(path.read_text().splitlines())
        modules[path.parent] += path.name != "__init__.py"
    total = sum(lines.values())
    assert {k: n for k, n in lines.items() if n > 0.2 * total} == {}
    assert {k: n for k, n in modules.items() if n > 20} == {}


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_no_pickle_and_no_code_from_files(path):
    names = set(imports(path))
    if relative(path) != "backbones/state_dict.py":  # catches what torch's safe unpickler raises
        assert "pickle" not in names
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "load"):
            keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if ast.unparse(node.func) == "torch.load":
                assert keywords.get("weights_only") == "True"
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in ("eval", "exec", "compile")
