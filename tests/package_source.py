"""The package's modules as syntax trees, for the tests that hold its structure and its names."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.paths import ROOT

PACKAGE = ROOT / "tlcli"
MODULES = sorted(PACKAGE.rglob("*.py"))

Function = ast.FunctionDef | ast.AsyncFunctionDef


def dotted(path: Path) -> str:
    """Return a module's dotted name."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


NAMES = {dotted(path) for path in MODULES}


def relative(path: Path) -> str:
    """Return a module's path inside the package."""
    return path.relative_to(PACKAGE).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    """Parse a module, once."""
    return ast.parse(path.read_text())


def imports(path: Path) -> Iterator[str]:
    """Yield the dotted names that a module imports, wherever in it."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_modules(path: Path) -> Iterator[str]:
    """Yield the package's own modules that a module imports."""
    for name in imports(path):
        if name.split(".")[0] == "tlcli":
            yield name if name in NAMES else name.rpartition(".")[0]


def functions(path: Path) -> Iterator[Function]:
    """Yield every function of a module, methods and inner functions too."""
    for node in ast.walk(tree(path)):
        if isinstance(node, Function):
            yield node


def is_command(path: Path, function: Function) -> bool:
    """Tell whether Typer makes a command of a function: its parameters are the options."""
    return relative(path).startswith("cli/") and function.name == "command"


def is_property(function: Function) -> bool:
    """Tell whether a function reads like a field."""
    return any("property" in ast.unparse(decorator) for decorator in function.decorator_list)


def parameters(function: Function) -> int:
    """Count a function's parameters, self included."""
    a = function.args
    named = [*a.posonlyargs, *a.args, *a.kwonlyargs]
    return len(named) + (a.vararg is not None) + (a.kwarg is not None)


def public_names(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (kind, name) for each public class, function and constant at a module's top level."""
    for node in tree(path).body:
        if isinstance(node, Function | ast.ClassDef):
            found = [("definition", node.name)]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found = [("constant", t.id) for t in targets if isinstance(t, ast.Name)]
            if "TypeVar" in ast.unparse(node.value or node):
                found = []
        else:
            found = []
        yield from ((kind, name) for kind, name in found if not name.startswith("_"))


def identifiers(path: Path) -> set[str]:
    """Return the names that a module gives: definitions, parameters, variables, attributes."""
    found = set(path.relative_to(PACKAGE).with_suffix("").parts)
    for node in ast.walk(tree(path)):
        if isinstance(node, Function | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
        elif isinstance(node, ast.alias) and node.asname:
            found.add(node.asname)
    return found


def words(identifier: str) -> list[str]:
    """Split an identifier into its lower-case words."""
    return [w.lower() for w in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", identifier)]
