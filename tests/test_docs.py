"""The README's commands run, and the docs' commands exist."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import typer.main

from docs.modules import FOLDERS
from tests.test_structure import ORDER
from tlcli.cli import app

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def shell_lines(page):
    """Yield the commands in a page's shell blocks, on one line each and without comments."""
    for block in re.findall(r"```(?:sh|console)?\n(.*?)```", page.read_text(), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line := line.removeprefix("$ ").partition(" #")[0].strip():
                yield line


def test_the_readmes_first_command_installs_and_runs_the_main_job(tmp_path):
    line = next(line for line in shell_lines(ROOT / "README.md") if line.startswith("pip install"))
    assert line == "pip install . && tlcli demo"
    source = tmp_path / "source"
    skip = shutil.ignore_patterns(".*", "__pycache__", "tlcli-demo*", "*.egg-info")
    shutil.copytree(ROOT, source, ignore=skip)
    # A fresh environment that sees this one's packages, so that torch is not downloaded again.
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    site = next((tmp_path / "venv").rglob("site-packages"))
    (site / "outer.pth").write_text(sysconfig.get_path("purelib") + "\n")
    environment = os.environ | {
        "PATH": f"{tmp_path / 'venv' / 'bin'}:{os.environ['PATH']}",
        "PIP_NO_BUILD_ISOLATION": "0",  # which is how pip spells "none"
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        line, shell=True, cwd=source, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (source / "tlcli-demo" / "run-1" / "model.safetensors").is_file()
    assert "val accuracy" in done.stderr
    rows = [r.split("\t") for r in done.stdout.splitlines() if r.startswith("tlcli-demo/unseen")]
    assert len(rows) == 10
    assert sum(label in path for path, label, *_ in rows) >= 8


def test_ci_runs_the_readmes_test_command():
    text = (ROOT / "README.md").read_text()
    block = re.search(r"<!-- test-command -->\n```sh\n(.*?)\n```", text)
    assert block
    assert block[1].endswith("&& python -m tests")
    ci = (ROOT / ".ci" / "run").read_text()
    assert "test-command" in ci
    assert "README.md" in ci


def commands_in_docs():
    for page in PAGES:
        for line in shell_lines(page):
            for part in re.split(r"\s*(?:\||&&)\s*", line):
                if part.startswith("tlcli "):
                    yield pytest.param(part, id=f"{page.relative_to(ROOT)}: {part}")


@pytest.mark.parametrize("line", list(commands_in_docs()))
def test_every_command_in_the_docs_parses(line):
    words = shlex.split(line)[1:]
    commands = typer.main.get_command(app).commands
    assert words[0] in commands
    commands[words[0]].make_context(words[0], words[1:])


def test_every_command_and_option_has_help():
    for name, command in typer.main.get_command(app).commands.items():
        assert command.help, name
        for parameter in command.params:
            assert parameter.help, f"{name} {parameter.name}"


def anchors(page):
    """Return the anchors of a page's headings, as GitHub makes them."""
    for heading in re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", page.read_text()):
        found = page.parent / target if target else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), f"{target}#{anchor}"


MAINTAINERS_PAGES = ["docs/architecture.md", "CONTRIBUTING.md"]
FILE = r"[\w./]+\.(?:py|md|json|toml|yaml)|[\w.]+/[\w./]*"


def find_named(name):
    """Return the file or folder that a page names, from the root or from the package's folder."""
    return next((path for path in (ROOT / name, ROOT / "tlcli" / name) if path.exists()), None)


@pytest.mark.parametrize("page", MAINTAINERS_PAGES)
def test_every_file_that_the_maintainers_pages_name_exists(page):
    text = (ROOT / page).read_text().partition("<!-- modules")[0]
    named = {name for name in re.findall(rf"`({FILE})`", text) if "NAME" not in name}
    assert len(named) > 5
    # files that a run writes, not files of the repository
    assert {n for n in named if not find_named(n)} <= {"run.json", "metrics.json"}
    for module in re.findall(r"`python -m ((?:tests|docs)[\w.]*)", text):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


@pytest.mark.parametrize("page", MAINTAINERS_PAGES)
def test_every_name_in_brackets_is_defined_in_the_file_before_it(page):
    text = (ROOT / page).read_text()
    for name, brackets in re.findall(rf"`({FILE})`\s+\((`[^)]*)\)", text):
        for word in re.findall(r"`(\w+)`", brackets):
            defined = rf"^\s*(?:def|class) {word}\b|^{word}\b.*="
            assert re.search(defined, find_named(name).read_text(), re.MULTILINE), f"{name}: {word}"


def test_the_map_shows_the_order_of_imports():
    assert list(FOLDERS) == ["", *ORDER, "transfer"]
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert " < ".join(ORDER) in " ".join(page.split())


def test_pages_that_the_package_names_exist():
    named = {
        page
        for path in (ROOT / "tlcli").rglob("*.py")
        for page in re.findall(r"docs/[\w/-]+\.md", path.read_text())
    }
    assert "docs/augmentation.md" in named
    assert [page for page in sorted(named) if not (ROOT / page).is_file()] == []
