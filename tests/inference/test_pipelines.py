"""`tlcli predict` in shell pipelines, as the docs have them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = f"{sys.executable} -m tlcli"


# The pipelines of docs/predict.md


@pytest.fixture
def photos(tmp_path, flowers):
    """A folder `photos` and a run for `predict` to find, with a name that needs quoting."""
    for path in flowers.glob("*/*-00[1-3].jpg"):
        copy = tmp_path / "photos" / path.relative_to(flowers)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    first = sorted((tmp_path / "photos").glob("*/*.jpg"))[0]
    first.rename(first.with_name("with a\nbreak and space.jpg"))
    return tmp_path


def shell(line, folder, trained):
    """What a line of the docs prints, with `tlcli` being this program."""
    tools = folder / "bin"
    tools.mkdir(exist_ok=True)
    program = tools / "tlcli"
    program.write_text(f'#!/bin/sh\nexec {PROGRAM} "$@"\n')
    program.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "TLCLI_MODEL": str(trained.folder),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def documented(start):
    """The line of docs/predict.md that begins so."""
    page = (Path(__file__).parents[2] / "docs" / "predict.md").read_text()
    lines = page.replace("\\\n", " ").splitlines()
    return next(line for line in lines if line.startswith(start))


def needs(*tools):
    missing = [tool for tool in tools if not shutil.which(tool)]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")


def test_pipeline_find_and_jq(photos, trained):
    needs("find", "jq")
    out = shell(
        documented("find photos -name '*.jpg' -print0 | tlcli predict -0 -"), photos, trained
    )
    counts = [line.split() for line in out.splitlines()]
    assert sum(int(n) for n, _ in counts) == 15


def test_pipeline_awk(photos, trained):
    needs("awk")
    out = shell(documented("tlcli predict photos --format tsv | awk"), photos, trained)
    rows = [line.split("\t") for line in out.splitlines()]
    assert 0 < len(rows) <= 15
    assert all(len(row) == 2 for row in rows)


def test_pipeline_xargs(photos, trained):
    needs("find", "xargs")
    out = shell(documented("find photos -name '*.jpg' -print0 | xargs"), photos, trained)
    assert len(out.splitlines()) == 15


def test_pipeline_into_folders(photos, trained):
    needs("jq", "xargs")
    shell(documented("tlcli predict photos --reject --format jsonl | jq"), photos, trained)
    sorted_ones = list((photos / "sorted").glob("*/*.jpg"))
    assert len(sorted_ones) == 15
    right = [p for p in sorted_ones if p.parent.name in p.name or p.parent.name == "unknown"]
    assert len(right) >= 0.8 * 14
