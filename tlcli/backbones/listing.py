"""The backbones as a list of rows; importing this module imports no torch."""

from dataclasses import asdict
from typing import Any

from tlcli.backbones import catalogue


def models(pattern: str = "", *, at_hand: bool = False) -> list[dict[str, Any]]:
    """List the backbones whose name or family contains `pattern`, in order of name.

    Args:
        at_hand: leave out backbones whose weights would have to be downloaded.

    Returns:
        For each the fields of `tlcli.backbones.catalogue.CatalogueEntry`, and `at_hand`.

    Raises:
        UsageError: there is none; close matches are named.
    """
    entries = catalogue.catalogue().values()
    matches = [entry for entry in entries if pattern in entry.name or pattern in entry.family]
    if not matches:
        catalogue.find_entry(pattern)
    rows = [{**asdict(entry), "at_hand": catalogue.at_hand(entry)} for entry in matches]
    return [row for row in rows if row["at_hand"] or not at_hand]
