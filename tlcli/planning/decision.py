"""From evidence to a decision, and what to say of it. Pure functions, no torch."""

from dataclasses import dataclass

from tlcli.errors import UsageError, choice
from tlcli.planning.cases import CASES, Overrides, case_of, named_case
from tlcli.planning.evidence import Evidence, Familiarity, StageScore
from tlcli.planning.explain import _familiarity_text, _wins_text

LEVEL_LINE = 0.61
"""Confidence, as a share of the reference, from which images count as similar."""
SELF_LINE = 0.56
"""The same of the share of comparisons won against the picture upside down, where there is no
reference."""
DOUBT = {"level": 0.05, "self": 0.04}
"""How near to its line a score is not trusted alone, beside two standard errors."""
FEW_CLASSES = 0.3
"""The same, shared out among the classes: that a network knows a rose badly says little of flowers
(docs/measured/familiarity.md)."""
UNMEASURED = "how familiar the images are was not measured, and is taken as similar"


@dataclass(frozen=True)
class SimilarityVerdict:
    """Similar or different, whether it was close, and the reason as a clause."""

    similarity: str
    close: bool
    why: str


def doubtful(found: Familiarity) -> bool:
    """Whether the score is too near to the line to be trusted alone."""
    return abs(found.score - found.line) < max(found.doubt, 2 * found.error)


def judge_similarity(evidence: Evidence) -> SimilarityVerdict:
    """Whether the images are like those that the backbone was trained on.

    The familiarity says. Where it is close to its line others are heard: a stage before the last
    that tells the classes apart better, by more than two paired standard errors (the best of
    several stages is always a little ahead), speaks for different; else, beside a level, the same
    pictures upside down.
    """
    found, sweep = evidence.familiarity, evidence.telling
    ahead = _earlier_ahead(sweep)
    if found is None:
        # Nothing is known of the pretraining's own answers: only a clear sweep can speak.
        similarity = "different" if ahead else "similar"
        return SimilarityVerdict(
            similarity, True, "how familiar the images are could not be measured"
        )
    similar = found.score >= found.line
    why = _familiarity_text(found)
    if not doubtful(found):
        return SimilarityVerdict("similar" if similar else "different", False, why)
    if ahead:
        word = "but" if similar else "and"
        return SimilarityVerdict(
            "different", True, f"{why}, {word} an earlier stage clearly beats the last"
        )
    if found.by == "level" and (wins := found.wins) is not None:
        word = "and" if similar == (wins >= SELF_LINE) else "but"
        similar = wins >= SELF_LINE
        why = f"{why}, {word} {_wins_text(wins, SELF_LINE)}"
    return SimilarityVerdict("similar" if similar else "different", True, why)


def _earlier_ahead(sweep: tuple[StageScore, ...]) -> bool:
    return bool(sweep) and sweep[-1].behind > 2 * sweep[-1].behind_error


def best_cut(sweep: tuple[StageScore, ...]) -> StageScore | None:
    """The earliest stage within one paired standard error of the best."""
    return next((s for s in sweep if s.behind <= s.behind_error), None)


def _against(similarity: str, evidence: Evidence | None) -> str:
    """What was measured, where it contradicts what was set by hand."""
    verdict = judge_similarity(evidence) if evidence else None
    if verdict is None or verdict.similarity == similarity:
        return ""
    return f" (measured, they look {verdict.similarity}: {verdict.why})"


@dataclass(frozen=True)
class Decision:
    """A case, how it came to be, and which other came close."""

    case: str
    why: str
    measured: bool = False
    runner_up: str = ""


def decide_case(
    n_train: int, wish: Overrides, evidence: Evidence | None, large_from: int
) -> Decision:
    """The case, from what was asked for, else from the number of images and the evidence.

    Raises:
        UsageError: unknown names, or options that contradict each other.
    """
    if wish.case is not None:
        if wish.size or wish.similarity:
            raise UsageError(
                "--case already says size and similarity",
                "give --case, or --size and --similarity, not both",
            )
        name = named_case(wish)
        return Decision(name, f"set by hand{_against(CASES[name].similarity, evidence)}")
    sizes = sorted({c.size for c in CASES.values()})
    similarities = sorted({c.similarity for c in CASES.values()})
    small = n_train < large_from
    size = choice("--size", wish.size, sizes) if wish.size else "small" if small else "large"
    verdict = (
        judge_similarity(evidence) if evidence else SimilarityVerdict("similar", False, UNMEASURED)
    )
    if wish.similarity:
        similarity = choice("--similarity", wish.similarity, similarities)
        measured = _against(similarity, evidence)
        verdict = SimilarityVerdict(similarity, False, f"{similarity} as you said{measured}")
    name = case_of(size, verdict.similarity)
    if wish.freeze is not None and not (wish.size or wish.similarity):
        return Decision(name, f"the cut was set by hand with --freeze {wish.freeze}")
    how_large = (
        f"{size} as you said ({n_train:,} training images)"
        if wish.size
        else f"{n_train:,} training images is {size} (the line is at {large_from:,})"
    )
    close = verdict.close and evidence is not None
    other = "different" if verdict.similarity == "similar" else "similar"
    return Decision(
        name,
        f"{how_large}; {verdict.why}",
        measured=evidence is not None and not wish.similarity,
        runner_up=case_of(size, other) if close else "",
    )
