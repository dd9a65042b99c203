"""Dataclasses as plain JSON types, under the keys that bundles and run.json store them by."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

T = TypeVar("T")


def stored_as(key: str) -> dict[str, str]:
    """Return the metadata of a dataclass field whose JSON key differs from its name."""
    return {"key": key}


def to_json_types(value: Any) -> Any:
    """Return dataclasses as dictionaries by their JSON keys, and tuples as lists."""
    if is_dataclass(value) and not isinstance(value, type):
        return {_key(f): to_json_types(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {k: to_json_types(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_json_types(v) for v in value]
    return value


def from_json_types(cls: type[T], content: Mapping[str, Any]) -> T:
    """Return a dataclass from its fields by JSON key; nested values stay as they are.

    Raises:
        TypeError: fields are missing or unknown.
    """
    names = {_key(f): f.name for f in fields(cls)}  # type: ignore[arg-type]
    return cls(**{names.get(key, key): value for key, value in content.items()})


def _key(stored: Any) -> str:
    """Return the JSON key of a dataclass field."""
    return stored.metadata.get("key", stored.name)
