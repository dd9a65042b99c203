"""The house's rules: imports go one way, and what may be imported where."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "tlcli"
ORDER = ["data", "backbones", "transfer", "artifacts", "inference", "recipes", "cli"]
MODULES = sorted(PACKAGE.rglob("*.py"))


def imports(path):
    """The dotted names that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(parts):
    """The folder's place in the order; None for what lies at the top."""
    return ORDER.index(parts[1]) if len(parts) > 1 and parts[1] in ORDER else None


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    here = room(("tlcli", *path.relative_to(PACKAGE).parts))
    if here is None:
        return
    for name in imports(path):
        if name.startswith("tlcli."):
            there = room(name.split("."))
            assert there is None or there <= here, f"{path.name} imports {name}"
        if name.split(".")[0] in ("typer", "rich"):
            assert ORDER[here] == "cli", f"{path.name} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_pickle_and_no_code_from_files(path):
    names = set(imports(path))
    if path.name != "checkpoint.py":  # catches what torch's safe unpickler raises
        assert "pickle" not in names
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "load"):
            keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if ast.unparse(node.func) == "torch.load":
                assert keywords.get("weights_only") == "True"
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in ("eval", "exec", "compile")
