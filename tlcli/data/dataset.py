"""A folder of images as samples with labels: scanned, hashed, split, and its doubts told."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from tlcli.data.layout import detect_layout
from tlcli.data.split import choose_val
from tlcli.errors import UsageError, UserError
from tlcli.reporter import Reporter
from tlcli.runtime.threads import map_in_order
from tlcli.text import printable, shorten_list


@dataclass(frozen=True, slots=True)
class Sample:
    """An image: where it lies, its class as an index, and the SHA-256 of its bytes (hex)."""

    path: Path
    label: int
    digest: str


@dataclass(frozen=True)
class Dataset:
    """Images of some classes in three parts.

    Attributes:
        classes: sorted; a label is an index into them.
        warnings: what a person should know before training, a line each.
        layout: "classes" (DIR/<class>), "train+val", or "train" (val is split from it too).
        val_fraction, seed: of the split, where the split is ours.
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
    def digest(self) -> str:
        """SHA-256 (hex) of every image's class, content and part; paths and order do not count."""
        lines = sorted(
            f"{part}\0{sample.digest}\0{self.classes[sample.label]}\0"
            for part, samples in self._parts().items()
            for sample in samples
        )
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogatepass")).hexdigest()

    def counts(self) -> dict[str, dict[str, int]]:
        """{class: {"train": n, "val": n, "test": n}}"""
        labels = {
            part: Counter(s.label for s in samples) for part, samples in self._parts().items()
        }
        return {
            name: {part: counted[label] for part, counted in labels.items()}
            for label, name in enumerate(self.classes)
        }

    def without(self, unreadable: Mapping[Path, str]) -> "Dataset":
        """This dataset less those files (path: why), split again where the split is ours.

        Raises:
            UserError: no image of a class, or none to validate on, is left.
        """
        if not unreadable:
            return self
        kept = {
            part: tuple(sample for sample in samples if sample.path not in unreadable)
            for part, samples in self._parts().items()
        }
        _check_left(self, kept, unreadable)
        told = set(_concerns(self))
        remarks = [warning for warning in self.warnings if warning not in told]
        rest = replace(self, train=kept["train"], val=kept["val"], test=kept["test"])
        return _complete(replace(rest, warnings=(*remarks, _left_out(unreadable, self.root))))

    def _parts(self) -> dict[str, tuple[Sample, ...]]:
        return {"train": self.train, "val": self.val, "test": self.test}


def scan(
    root: Path, *, val_fraction: float = 0.2, seed: int = 0, reporter: Reporter | None = None
) -> Dataset:
    """The images below `root`, in one of the layouts of `Dataset`, every file hashed.

    Its `warnings` are returned, not reported. Pixels are not looked at: `find_unreadable` and
    `Dataset.without` do so.

    Args:
        val_fraction: how much of each class is for validation, where no val folder says.

    Raises:
        UsageError: `val_fraction` is not between 0 and 1.
        UserError: the folder cannot be used; the reasons are told together.
    """
    if not 0 < val_fraction < 1:
        raise UsageError(f"val_fraction is {val_fraction}", "it must lie between 0 and 1")
    listing = detect_layout(root)
    classes = tuple(listing.parts["train"].classes)
    found = [
        (name, label, path)
        for name, part in listing.parts.items()
        for label, class_name in enumerate(classes)
        for path in part.images.get(class_name, ())
    ]
    digests, unreadable = _hashed([path for _, _, path in found], reporter or Reporter())
    samples: dict[str, list[Sample]] = {"train": [], "val": [], "test": []}
    for name, label, path in found:
        samples[name].append(Sample(path, label, digests.get(path, "")))
    parts = {name: tuple(those) for name, those in samples.items()}
    dataset = Dataset(
        root,
        classes,
        **parts,
        warnings=listing.remarks,
        layout=listing.layout,
        val_fraction=val_fraction,
        seed=seed,
    )
    return dataset.without(unreadable) if unreadable else _complete(dataset)


def _hashed(paths: list[Path], reporter: Reporter) -> tuple[dict[Path, str], dict[Path, str]]:
    """The SHA-256 of each file, and why it has none."""

    def digest(path: Path) -> tuple[str | None, str]:
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest(), ""
        except OSError as error:
            return None, error.strerror or str(error)

    digests: dict[Path, str] = {}
    unreadable: dict[Path, str] = {}
    for done, (path, (found, why)) in enumerate(
        zip(paths, map_in_order(digest, paths), strict=True)
    ):
        if found is None:
            unreadable[path] = why
        else:
            digests[path] = found
        reporter.progress("scanning images", done + 1, len(paths))
    return digests, unreadable


def _complete(dataset: Dataset) -> Dataset:
    """`dataset`, split where the split is ours, with what is doubtful about it told."""
    if dataset.layout != "train+val":
        dataset = _split(dataset)
    return replace(dataset, warnings=(*dataset.warnings, *_concerns(dataset)))


def _split(dataset: Dataset) -> Dataset:
    pooled = sorted((*dataset.train, *dataset.val), key=lambda s: (s.label, str(s.path)))
    contents: list[set[str]] = [set() for _ in dataset.classes]
    for sample in pooled:
        contents[sample.label].add(sample.digest)
    held_out = choose_val(contents, dataset.val_fraction, dataset.seed)
    return replace(
        dataset,
        train=tuple(sample for sample in pooled if sample.digest not in held_out),
        val=tuple(sample for sample in pooled if sample.digest in held_out),
    )


def _check_left(
    before: Dataset, kept: Mapping[str, tuple[Sample, ...]], unreadable: Mapping[Path, str]
) -> None:
    """Raises `UserError` where leaving files out leaves a class, or val, with nothing."""
    why = _left_out(unreadable, before.root)
    # where the split is ours, an image of either side can serve the other
    usable = kept["train"] if before.layout == "train+val" else (*kept["train"], *kept["val"])
    left = {sample.label for sample in usable}
    gone = [name for label, name in enumerate(before.classes) if label not in left]
    if gone:
        raise UserError(
            f"no readable image is left of {shorten_list(gone)} in {printable(before.root)}: {why}",
            "put readable images into those class folders, or remove the folders",
        )
    if before.layout == "train+val" and not kept["val"]:
        raise UserError(
            f"no readable image is left in val of {printable(before.root)}: {why}",
            "put readable images there, or remove the folder, and some of train is taken",
        )


def _left_out(unreadable: Mapping[Path, str], root: Path) -> str:
    """As "2 unreadable images left out: roses/1.jpg (the file is empty), ..."."""
    noun = "image" if len(unreadable) == 1 else "images"
    named = shorten_list(
        f"{_relative(path, root)} ({why})" for path, why in sorted(unreadable.items())
    )
    return f"{len(unreadable)} unreadable {noun} left out: {named}"


def _concerns(dataset: Dataset) -> list[str]:
    """What is doubtful about the samples themselves, a line each."""
    concerns: list[str] = []
    counts = dataset.counts()
    single = [name for name, n in counts.items() if n["train"] == 1 and n["val"] == 0]
    unchecked = [name for name, n in counts.items() if n["train"] > 1 and n["val"] == 0]
    if single:
        concerns.append(
            f"classes with one image, trained but not validated: {shorten_list(single)}"
        )
    if unchecked:
        concerns.append(f"classes without images in val: {shorten_list(unchecked)}")
    lopsided = [name for name, n in counts.items() if n["val"] > n["train"]]
    if lopsided and dataset.layout != "train+val":
        concerns.append(
            f"classes with more images in val than in train: {shorten_list(lopsided)} "
            "(the split goes by "
            "content, so small classes vary; another seed splits otherwise)"
        )
    everything = list(chain(dataset.train, dataset.val, dataset.test))
    doubly = _repeated(everything, [sample.label for sample in everything])
    if doubly:
        concerns.append(
            f"the same image in two classes ({len(doubly)}): {_pairs(doubly, dataset.root)}"
        )
    for part, samples in (("val", dataset.val), ("test", dataset.test)):
        both = [*dataset.train, *samples]
        leaks = _repeated(both, [index < len(dataset.train) for index in range(len(both))])
        if leaks:
            concerns.append(
                f"the same image in train and {part} ({len(leaks)}), so that {part} looks better "
                f"than it is: {_pairs(leaks, dataset.root)}"
            )
    return concerns


def _repeated(samples: Iterable[Sample], kinds: Iterable[int]) -> list[tuple[Sample, Sample]]:
    """Of each content that occurs in several kinds, two samples of different kinds."""
    seen: dict[str, dict[int, Sample]] = defaultdict(dict)
    for sample, kind in zip(samples, kinds, strict=True):
        seen[sample.digest].setdefault(kind, sample)
    several = (list(by_kind.values()) for by_kind in seen.values() if len(by_kind) > 1)
    return [(first, second) for first, second, *_ in several]


def _pairs(pairs: Iterable[tuple[Sample, Sample]], root: Path) -> str:
    return shorten_list(f"{_relative(a.path, root)} = {_relative(b.path, root)}" for a, b in pairs)


def _relative(path: Path, root: Path) -> str:
    return str(path.relative_to(root) if path.is_relative_to(root) else path)
