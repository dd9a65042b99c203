"""Helpers that write weight files."""

from pathlib import Path

import torch

SMALL = "squeezenet1_1"  # 5 MB


def saved(content: object, path: Path) -> str:
    """Pickle an object as torch does; return the path as text."""
    torch.save(content, path)
    return str(path)
