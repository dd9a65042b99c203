"""The decision for one of the four cases, from the evidence and the options; needs no torch."""

from dataclasses import dataclass

from tlcli.errors import UsageError, choice
from tlcli.planning import explain
from tlcli.planning.cases import CASES, Overrides, case_set_by_hand, find_case
from tlcli.planning.evidence import (
    BY_CONFIDENCE,
    BY_WIN_RATE,
    Evidence,
    SimilarityScore,
    StageScore,
)

CONFIDENCE_THRESHOLD = 0.61
"""Confidence, as a share of the reference, from which images count as similar."""
WIN_RATE_THRESHOLD = 0.56
"""Share of comparisons won against the same image upside down, from which images count as similar.
It decides where there is no reference."""
MARGINS = {BY_CONFIDENCE: 0.05, BY_WIN_RATE: 0.04}
"""Distance from its threshold within which a score is uncertain; so it is within two standard
errors."""
CLASS_MARGIN = 0.3
"""The same divided by the number of classes: that a network knows a rose badly says little of
flowers (docs/measured/familiarity.md)."""


@dataclass(frozen=True)
class SimilarityVerdict:
    """The similarity that the evidence speaks for.

    Attributes:
        similarity: "similar" or "different".
        close: whether the other one is nearly as likely.
        reason: a clause for a person.
    """

    similarity: str
    close: bool
    reason: str


def is_uncertain(similarity: SimilarityScore) -> bool:
    """Return whether the score is too near to its threshold to be trusted alone."""
    margin = max(similarity.margin, 2 * similarity.error)
    return abs(similarity.score - similarity.threshold) < margin


def judge_similarity(evidence: Evidence) -> SimilarityVerdict:
    """Judge whether the images are like the images that the backbone was pretrained on.

    The similarity score decides. Where it is uncertain, an earlier stage decides for "different"
    if it separates the classes better than the last by more than two paired standard errors (the
    best of several stages is always a little ahead). Otherwise the win rate decides, where the
    score is of the confidence.
    """
    score = evidence.similarity
    earlier_wins = _earlier_stage_wins(evidence.informative_sweep)
    if score is None:
        # The pretrained head's predictions are unknown: only a clear sweep can decide.
        return SimilarityVerdict(_word(not earlier_wins), True, explain.SIMILARITY_UNKNOWN)
    similar = score.score >= score.threshold
    reason = explain.similarity_text(score)
    if not is_uncertain(score):
        return SimilarityVerdict(_word(similar), False, reason)
    if earlier_wins:
        reason = explain.add_reason(reason, explain.EARLIER_STAGE_WINS, agrees=not similar)
        return SimilarityVerdict("different", True, reason)
    if score.method == BY_CONFIDENCE and (win_rate := score.win_rate) is not None:
        wins = win_rate >= WIN_RATE_THRESHOLD
        text = explain.win_rate_text(win_rate, WIN_RATE_THRESHOLD)
        reason = explain.add_reason(reason, text, agrees=similar == wins)
        similar = wins
    return SimilarityVerdict(_word(similar), True, reason)


def _word(similar: bool) -> str:
    """Return the name of a similarity."""
    return "similar" if similar else "different"


def _earlier_stage_wins(sweep: tuple[StageScore, ...]) -> bool:
    """Return whether a stage before the last is clearly more accurate."""
    return bool(sweep) and sweep[-1].gap > 2 * sweep[-1].gap_error


def best_cut(sweep: tuple[StageScore, ...]) -> StageScore | None:
    """Return the earliest stage within one paired standard error of the best."""
    return next((s for s in sweep if s.gap <= s.gap_error), None)


def _contradiction(similarity: str, evidence: Evidence | None) -> str:
    """Return a text on measurements that contradict a similarity set by hand, or ""."""
    verdict = judge_similarity(evidence) if evidence else None
    if verdict is None or verdict.similarity == similarity:
        return ""
    return explain.contradiction_text(verdict.similarity, verdict.reason)


@dataclass(frozen=True)
class Decision:
    """The case that was decided for.

    Attributes:
        case: one of `CASES`.
        why: a sentence for a person.
        measured: whether measurements decided its similarity.
        runner_up: the case that came close, or "".
    """

    case: str
    why: str
    measured: bool = False
    runner_up: str = ""


def decide_case(
    n_train: int, overrides: Overrides, evidence: Evidence | None, large_from: int
) -> Decision:
    """Decide from the options, else from the number of images and the evidence.

    Raises:
        UsageError: unknown names, or options that contradict each other.
    """
    if overrides.case is not None:
        if overrides.size or overrides.similarity:
            raise UsageError(
                "--case already says size and similarity",
                "give --case, or --size and --similarity, not both",
            )
        name = case_set_by_hand(overrides)
        contradiction = _contradiction(CASES[name].similarity, evidence)
        return Decision(name, explain.case_by_hand_text(contradiction))
    size = "small" if n_train < large_from else "large"
    if overrides.size:
        size = choice("--size", overrides.size, sorted({c.size for c in CASES.values()}))
    verdict = _verdict(overrides, evidence)
    name = find_case(size, verdict.similarity)
    if overrides.only_the_cut:
        return Decision(name, explain.cut_by_hand_text(overrides.freeze or ""))
    size_text = explain.size_text(size, n_train, large_from, by_hand=bool(overrides.size))
    other = _word(verdict.similarity != "similar")
    return Decision(
        name,
        f"{size_text}; {verdict.reason}",
        measured=evidence is not None and not overrides.similarity,
        runner_up=find_case(size, other) if verdict.close and evidence is not None else "",
    )


def _verdict(overrides: Overrides, evidence: Evidence | None) -> SimilarityVerdict:
    """Return the similarity that was set by hand, else the one that the evidence speaks for."""
    if overrides.similarity:
        known = sorted({c.similarity for c in CASES.values()})
        similarity = choice("--similarity", overrides.similarity, known)
        contradiction = _contradiction(similarity, evidence)
        reason = explain.similarity_by_hand_text(similarity, contradiction)
        return SimilarityVerdict(similarity, False, reason)
    if evidence is None:
        return SimilarityVerdict("similar", False, explain.SIMILARITY_ASSUMED)
    return judge_similarity(evidence)
