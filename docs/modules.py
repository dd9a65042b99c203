"""The list of modules in docs/architecture.md, made from their docstrings."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "tlcli"
PAGE = ROOT / "docs" / "architecture.md"
BEGIN = "<!-- modules: made by `python -m docs.make`; do not edit -->"
END = "<!-- /modules -->"
FOLDERS = (
    *("", "runtime", "data", "metrics", "backbones", "features", "planning", "artifacts"),
    *("inference", "training", "runs", "recipes", "cli", "transfer"),
)
"""The package's folders in the order of imports."""


def architecture() -> str:
    """Return docs/architecture.md with its list of modules as the program is now."""
    page = PAGE.read_text()
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    return f"{before}{BEGIN}\n\n{_module_list()}\n{END}{after}"


def _module_list() -> str:
    """Return one table per folder, with one row per module."""
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    tables = map(_table, sorted(folders, key=_place))
    return "\n".join(table for table in tables if table)


def _place(folder: Path) -> tuple[int, str]:
    """Return the sort key of a folder: its place in the order of imports, then its path."""
    parts = folder.relative_to(PACKAGE).parts
    return FOLDERS.index(parts[0] if parts else ""), str(folder)


def _table(folder: Path) -> str:
    """Return the table of a folder's own modules; "" if it has none."""
    modules = [path for path in sorted(folder.glob("*.py")) if path.name != "__init__.py"]
    rows = [f"| `{path.name}` | {_first_sentence(path)} |" for path in modules]
    heading = f"**`{folder.relative_to(ROOT)}/`** {_first_sentence(folder / '__init__.py')}"
    return "\n".join([heading, "", "| module | |", "|---|---|", *rows, ""]) if rows else ""


def _first_sentence(path: Path) -> str:
    """Return the first sentence of a module's docstring."""
    paragraph = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0]
    return re.split(r"(?<=\.) (?=[A-Z])", " ".join(paragraph.split()))[0]
