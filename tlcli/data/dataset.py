"""A dataset: the images of a folder with their labels, hashed, split, and checked."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tlcli.data.folders import hash_files
from tlcli.data.layout import detect_layout
from tlcli.data.split import choose_val
from tlcli.errors import UsageError, UserError
from tlcli.reporter import Reporter
from tlcli.text import printable, shorten_list


@dataclass(frozen=True, slots=True)
class Sample:
    """An image of a dataset.

    Attributes:
        path: the file.
        label: its class, as an index into the dataset's classes.
        digest: SHA-256 (hex) of the file's bytes.
    """

    path: Path
    label: int
    digest: str


@dataclass(frozen=True)
class Dataset:
    """Images with their classes, in the splits train, val and test.

    Attributes:
        root: the folder.
        classes: names, sorted; a label is an index into them.
        train, val, test: the samples of each split.
        warnings: what the user should know before training, one line each.
        layout: "classes" (DIR/<class>), "train+val", or "train" (without val).
        val_fraction: share of val, unless the layout is "train+val".
        seed: seed of the split, unless the layout is "train+val".
    """

    root: Path
    classes: tuple[str, ...]
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    test: tuple[Sample, ...]
    warnings: tuple[str, ...]
    layout: str
    val_fraction: float
    seed: int

    @property
    def splits(self) -> dict[str, tuple[Sample, ...]]:
        """The samples by split: "train", "val" and "test"."""
        return {"train": self.train, "val": self.val, "test": self.test}

    @property
    def samples(self) -> tuple[Sample, ...]:
        """All samples: train, then val, then test."""
        return (*self.train, *self.val, *self.test)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of every image's class, content and split; paths do not matter."""
        lines = sorted(
            f"{split}\0{sample.digest}\0{self.classes[sample.label]}\0"
            for split, samples in self.splits.items()
            for sample in samples
        )
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogatepass")).hexdigest()

    def counts(self) -> dict[str, dict[str, int]]:
        """Count the images per class and split, as {class: {"train": n, "val": n, "test": n}}."""
        labels = {
            split: Counter(s.label for s in samples) for split, samples in self.splits.items()
        }
        return {
            name: {split: counted[label] for split, counted in labels.items()}
            for label, name in enumerate(self.classes)
        }

    def without(self, unreadable: Mapping[Path, str]) -> "Dataset":
        """Return the dataset without unreadable files, split again unless val was given.

        Args:
            unreadable: the files, and why they are unreadable.

        Raises:
            UserError: a class has no images left, or there are none left to validate on.
        """
        if not unreadable:
            return self
        kept = {
            split: tuple(sample for sample in samples if sample.path not in unreadable)
            for split, samples in self.splits.items()
        }
        _check_remaining(self, kept, unreadable)
        outdated = set(_sample_warnings(self))
        warnings = [warning for warning in self.warnings if warning not in outdated]
        rest = replace(self, train=kept["train"], val=kept["val"], test=kept["test"])
        return _complete(replace(rest, warnings=(*warnings, _left_out(unreadable, self.root))))


def scan(
    root: Path, *, val_fraction: float = 0.2, seed: int = 0, reporter: Reporter | None = None
) -> Dataset:
    """Find, hash and split the images in a folder that has one of the layouts of `Dataset`.

    The warnings are returned, not reported. Images are not decoded: see `find_unreadable` and
    `Dataset.without`.

    Args:
        val_fraction: share of each class for validation, unless there is a val folder.
        seed: seed of the split.

    Raises:
        UsageError: `val_fraction` is not between 0 and 1.
        UserError: the folder cannot be used; the message lists all reasons.
    """
    if not 0 < val_fraction < 1:
        raise UsageError(f"val_fraction is {val_fraction}", "it must be between 0 and 1")
    detected = detect_layout(root)
    classes = tuple(detected.splits["train"].classes)
    found = [
        (name, label, path)
        for name, split in detected.splits.items()
        for label, class_name in enumerate(classes)
        for path in split.images.get(class_name, ())
    ]
    digests, unreadable = hash_files([path for _, _, path in found], reporter or Reporter())
    samples: dict[str, list[Sample]] = {"train": [], "val": [], "test": []}
    for name, label, path in found:
        samples[name].append(Sample(path, label, digests.get(path, "")))
    dataset = Dataset(
        root,
        classes,
        train=tuple(samples["train"]),
        val=tuple(samples["val"]),
        test=tuple(samples["test"]),
        warnings=detected.warnings,
        layout=detected.layout,
        val_fraction=val_fraction,
        seed=seed,
    )
    return dataset.without(unreadable) if unreadable else _complete(dataset)


def _complete(dataset: Dataset) -> Dataset:
    """Return `dataset` split, unless val was given, and with warnings about its samples."""
    if dataset.layout != "train+val":
        dataset = _split(dataset)
    return replace(dataset, warnings=(*dataset.warnings, *_sample_warnings(dataset)))


def _split(dataset: Dataset) -> Dataset:
    """Return `dataset` with its train and val images split again."""
    pooled = sorted((*dataset.train, *dataset.val), key=lambda s: (s.label, str(s.path)))
    digests: list[set[str]] = [set() for _ in dataset.classes]
    for sample in pooled:
        digests[sample.label].add(sample.digest)
    val = choose_val(digests, dataset.val_fraction, dataset.seed)
    return replace(
        dataset,
        train=tuple(sample for sample in pooled if sample.digest not in val),
        val=tuple(sample for sample in pooled if sample.digest in val),
    )


def _check_remaining(
    before: Dataset, kept: Mapping[str, tuple[Sample, ...]], unreadable: Mapping[Path, str]
) -> None:
    """Raise `UserError` if a class, or a given val folder, has no readable images."""
    left_out = _left_out(unreadable, before.root)
    # unless val was given, an image of either split can be used for the other
    usable = kept["train"] if before.layout == "train+val" else (*kept["train"], *kept["val"])
    remaining = {sample.label for sample in usable}
    empty = [name for label, name in enumerate(before.classes) if label not in remaining]
    if empty:
        raise UserError(
            f"no readable images are left for {shorten_list(empty)} in {printable(before.root)}: "
            f"{left_out}",
            "put readable images into those class folders, or remove the folders",
        )
    if before.layout == "train+val" and not kept["val"]:
        raise UserError(
            f"no readable images are left in val of {printable(before.root)}: {left_out}",
            "put readable images there, or remove the folder to use part of train for validation",
        )


def _left_out(unreadable: Mapping[Path, str], root: Path) -> str:
    """Return a line such as "1 unreadable image left out: roses/1.jpg (the file is empty)"."""
    noun = "image" if len(unreadable) == 1 else "images"
    named = shorten_list(
        f"{_relative(path, root)} ({reason})" for path, reason in sorted(unreadable.items())
    )
    return f"{len(unreadable)} unreadable {noun} left out: {named}"


def _sample_warnings(dataset: Dataset) -> list[str]:
    """Return warnings about the samples, one line each."""
    return [*_count_warnings(dataset), *_duplicate_warnings(dataset)]


def _count_warnings(dataset: Dataset) -> list[str]:
    """Return warnings about classes with few images in a split."""
    warnings: list[str] = []
    counts = dataset.counts()
    single = [name for name, n in counts.items() if n["train"] == 1 and n["val"] == 0]
    without_val = [name for name, n in counts.items() if n["train"] > 1 and n["val"] == 0]
    mostly_val = [name for name, n in counts.items() if n["val"] > n["train"]]
    if single:
        warnings.append(
            "classes with a single image, used for training but not validation: "
            f"{shorten_list(single)}"
        )
    if without_val:
        warnings.append(f"classes without validation images: {shorten_list(without_val)}")
    if mostly_val and dataset.layout != "train+val":
        warnings.append(
            f"classes with more validation than training images: {shorten_list(mostly_val)} "
            "(images are split by their content, so the shares of small classes vary; another "
            "--seed splits differently)"
        )
    return warnings


def _duplicate_warnings(dataset: Dataset) -> list[str]:
    """Return warnings about identical images in two classes, or in train and another split."""
    warnings: list[str] = []
    everything = dataset.samples
    duplicates = _duplicates(everything, [sample.label for sample in everything])
    if duplicates:
        warnings.append(
            f"identical images in two classes ({len(duplicates)}): "
            f"{_list_pairs(duplicates, dataset.root)}"
        )
    for split, samples in (("val", dataset.val), ("test", dataset.test)):
        both = [*dataset.train, *samples]
        leaks = _duplicates(both, [index < len(dataset.train) for index in range(len(both))])
        if leaks:
            warnings.append(
                f"identical images in train and {split} ({len(leaks)}), which make {split} "
                f"metrics too optimistic: {_list_pairs(leaks, dataset.root)}"
            )
    return warnings


def _duplicates(samples: Iterable[Sample], groups: Iterable[int]) -> list[tuple[Sample, Sample]]:
    """Return two samples of different groups for each content that is in several groups."""
    seen: dict[str, dict[int, Sample]] = defaultdict(dict)
    for sample, group in zip(samples, groups, strict=True):
        seen[sample.digest].setdefault(group, sample)
    shared = (list(by_group.values()) for by_group in seen.values() if len(by_group) > 1)
    return [(first, second) for first, second, *_ in shared]


def _list_pairs(pairs: Iterable[tuple[Sample, Sample]], root: Path) -> str:
    """Return the pairs as a list, such as "a/1.jpg = b/2.jpg, ..."."""
    return shorten_list(f"{_relative(a.path, root)} = {_relative(b.path, root)}" for a, b in pairs)


def _relative(path: Path, root: Path) -> str:
    """Return `path` relative to `root` if it is below it."""
    return str(path.relative_to(root) if path.is_relative_to(root) else path)
