"""The benchmarks' pages are those that their kept outcomes give, and every benchmark loads."""

import importlib

import pytest

from tests.bench import page, regret
from tests.bench.common import MEASURED
from tests.paths import ROOT

FASTAI = "fastai_contender"  # runs in an environment of its own
MODULES = sorted(
    path.stem for path in (ROOT / "tests" / "bench").glob("[a-z]*.py") if path.stem != FASTAI
)


@pytest.mark.parametrize("name", MODULES)
def test_every_benchmark_loads(name):
    assert importlib.import_module(f"tests.bench.{name}").__doc__


def test_the_benchmarks_page_is_current(tmp_path):
    written = tmp_path / "benchmarks.md"
    page.write(written)
    assert written.read_text() == (MEASURED / "benchmarks.md").read_text()


def test_the_regret_page_has_the_kept_outcomes():
    rows = [line for line in regret.page(regret.read(regret.RESULTS)).splitlines() if "|" in line]
    assert rows == [
        line for line in (MEASURED / "regret.md").read_text().splitlines() if "|" in line
    ]
