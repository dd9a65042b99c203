"""Decisions from evidence: tables of measurements and of the plans that follow, without torch."""

import json
from dataclasses import replace

import pytest

from tlcli.planning.cases import CASES, Overrides
from tlcli.planning.cut import StageFacts
from tlcli.planning.decision import best_cut, judge_similarity
from tlcli.planning.evidence import Evidence, SimilarityScore, StageScore, Timing
from tlcli.planning.forecast import Workload, forecast
from tlcli.planning.plan import make_plan, needs_evidence

STAGES = [
    *(StageFacts(f"layer{i}", "features", 1000 * i) for i in range(1, 5)),
    StageFacts("avgpool", "features", 0),
    StageFacts("head", "classifier", 100),
]
NAMES = ("layer1", "layer2", "layer3", "avgpool")


def sweep(*gaps, error=0.01):
    """Make the scores of the stages in `NAMES` from their gaps to the best."""
    return tuple(
        StageScore(n, 0.9 - b, 0.01, b, error if b else 0.0)
        for n, b in zip(NAMES, gaps, strict=True)
    )


def by_confidence(score, error=0.01):
    """Make a similarity score that was measured by the confidence."""
    return SimilarityScore(score, 0.64, error, "level", confidence=score * 0.6, reference=0.6)


LAST_BEST = sweep(0.3, 0.2, 0.1, 0.0)
MIDDLE_BEST = sweep(0.1, 0.0, 0.03, 0.06)


def evidence(similarity=None, stages=LAST_BEST, n=1000, **more):
    return Evidence(n, 5, 10, 500, min(n, 1000), 5, similarity=similarity, sweep=stages, **more)


def plan(found, n=1000, large_from=10_000, **options):
    return make_plan(
        STAGES,
        pretrained=len(STAGES),
        linear_head=True,
        n_train=n,
        overrides=Overrides(**options),
        evidence=found,
        large_from=large_from,
    )


@pytest.mark.parametrize(
    ("n", "score", "stages", "case", "cut"),
    [
        (1000, 0.9, LAST_BEST, "small-similar", "avgpool"),
        (1000, 0.9, MIDDLE_BEST, "small-similar", "avgpool"),
        (1000, 0.2, MIDDLE_BEST, "small-different", "layer2"),
        (1000, 0.2, LAST_BEST, "small-different", "avgpool"),
        (20_000, 0.9, LAST_BEST, "large-similar", "none"),
        (20_000, 0.2, MIDDLE_BEST, "large-different", "none"),
        (10_000, 0.9, LAST_BEST, "large-similar", "none"),
        (9_999, 0.9, LAST_BEST, "small-similar", "avgpool"),
    ],
)
def test_size_similarity_and_sweep_decide(n, score, stages, case, cut):
    got = plan(evidence(by_confidence(score), stages, n), n)
    assert (got.case, got.cut, got.override, got.runner_up) == (case, cut, (), "")
    assert case in got.why
    assert f"{n:,} training images are a {got.size} dataset" in got.why


def test_a_dropped_network_gets_a_head_on_the_stage_of_the_sweep():
    got = plan(evidence(by_confidence(0.2), MIDDLE_BEST))
    assert got.trained == ("new_head",)
    assert got.dropped == ("layer3", "layer4", "avgpool", "head")
    assert "layer2 separate the classes best (90.0% +- 2.0%; the last" in got.why


def test_where_no_earlier_stage_is_better_a_different_folder_keeps_the_last_features():
    got = plan(evidence(by_confidence(0.2), LAST_BEST))
    assert (got.case, got.trained, got.dropped) == ("small-different", ("head",), ())
    assert "no earlier stage beats" in got.why


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        (sweep(0.0, 0.0, 0.0, 0.0), "layer1"),  # a tie goes to the earliest
        (sweep(0.02, 0.009, 0.0, 0.0), "layer2"),  # within one paired standard error
        (sweep(0.02, 0.011, 0.0, 0.02), "layer3"),
        (sweep(0.3, 0.2, 0.1, 0.0), "avgpool"),
    ],
)
def test_the_cut_is_the_earliest_stage_within_one_paired_standard_error(stages, expected):
    assert best_cut(stages).name == expected


@pytest.mark.parametrize(
    ("score", "stages", "similarity", "case"),
    [
        (0.65, LAST_BEST, "similar", "small-similar"),
        (0.65, MIDDLE_BEST, "different", "small-different"),
        (0.63, LAST_BEST, "different", "small-different"),
        (0.63, MIDDLE_BEST, "different", "small-different"),
        (0.65, sweep(0.1, 0.0, 0.03, 0.019), "similar", "small-similar"),  # under two errors
    ],
)
def test_near_the_threshold_the_sweep_decides(score, stages, similarity, case):
    got = plan(evidence(by_confidence(score), stages))
    assert (got.similarity, got.case) == (similarity, case)
    assert (
        got.runner_up
        == {
            "small-similar": "small-different",
            "small-different": "small-similar",
        }[case]
    )
    assert f"(--case {got.runner_up})" in got.why
    assert "the decision is close" in got.why


@pytest.mark.parametrize(
    ("score", "wins", "stages", "similarity", "word"),
    [
        (0.65, 0.6, LAST_BEST, "similar", "and the backbone is more confident"),
        (0.65, 0.53, LAST_BEST, "different", "but the backbone is hardly more confident"),
        (0.63, 0.6, LAST_BEST, "similar", "but the backbone is more confident"),
        (0.63, 0.45, LAST_BEST, "different", "and the backbone is no more confident"),
        (
            0.63,
            0.6,
            MIDDLE_BEST,
            "different",
            "and an earlier stage separates the classes clearly better",
        ),
        (
            0.65,
            0.6,
            MIDDLE_BEST,
            "different",
            "but an earlier stage separates the classes clearly better",
        ),
    ],
)
def test_near_the_threshold_the_win_rate_decides(score, wins, stages, similarity, word):
    found = replace(by_confidence(score), head_win_rate=wins + 0.1, feature_win_rate=wins - 0.1)
    verdict = judge_similarity(evidence(found, stages))
    assert (verdict.similarity, verdict.close) == (similarity, True)
    assert word in verdict.reason
    clear = replace(by_confidence(0.9), head_win_rate=0.1, feature_win_rate=0.1)
    assert not judge_similarity(evidence(clear, LAST_BEST)).close


def test_few_classes_make_a_score_uncertain():
    assert not judge_similarity(evidence(by_confidence(0.75))).close
    assert judge_similarity(evidence(replace(by_confidence(0.75), margin=0.15))).close


def test_a_sweep_no_better_than_guessing_decides_nothing():
    guessed = tuple(
        StageScore(n, 0.21, 0.02, b, 0.01) for n, b in zip(NAMES, range(4), strict=True)
    )
    got = plan(evidence(by_confidence(0.2), guessed))
    assert "no stage separates the classes better than guessing (21.0% at best)" in got.why
    assert (got.cut, got.case) == ("layer3", "small-different")
    assert "three quarters of the way up" in got.why
    assert judge_similarity(evidence(None, guessed)).similarity == "similar"


def test_the_best_of_equals_is_the_earliest_whatever_rounding_says():
    equal = (StageScore("a", 0.98039216, 0.01, 0.0, 0.03), StageScore("b", 0.98039228, 0.01, 0, 0))
    assert evidence(stages=equal).best_stage.name == "a"


def test_few_images_make_a_score_uncertain_that_many_would_not():
    assert not judge_similarity(evidence(by_confidence(0.75, error=0.01))).close
    assert judge_similarity(evidence(by_confidence(0.75, error=0.08))).close


def test_without_a_score_only_a_clear_sweep_decides_for_different():
    assert judge_similarity(evidence(None, MIDDLE_BEST)).similarity == "different"
    assert judge_similarity(evidence(None, LAST_BEST)).similarity == "similar"
    assert judge_similarity(evidence(None, ())).similarity == "similar"
    assert "could not be measured" in plan(evidence(None, ())).why


def test_without_a_sweep_the_cut_of_a_different_folder_is_three_quarters_up():
    got = plan(evidence(by_confidence(0.2), ()))
    assert (got.case, got.cut) == ("small-different", "layer3")


@pytest.mark.parametrize(
    ("options", "case"),
    [
        ({"case": "large-similar"}, "large-similar"),
        ({"similarity": "different"}, "small-different"),
        ({"size": "large"}, "large-similar"),
        ({"size": "large", "similarity": "different"}, "large-different"),
    ],
)
def test_an_override_wins_and_is_recorded_as_one(options, case):
    got = plan(evidence(by_confidence(0.9)), **options)
    assert got.case == case
    assert got.override == tuple(f"--{k} {v}" for k, v in options.items())
    assert got.evidence is not None


def test_a_contradiction_to_an_override_is_explained():
    got = plan(evidence(by_confidence(0.9), MIDDLE_BEST), similarity="different")
    assert "different, set by hand (but the measurements speak for similar" in got.why
    assert "the measurements" not in plan(evidence(by_confidence(0.9)), similarity="similar").why
    assert (
        "the measurements speak for similar"
        in plan(evidence(by_confidence(0.9)), case="small-different").why
    )


@pytest.mark.parametrize(
    ("score", "words"),
    [
        (1.2, "more confident on them than"),
        (0.98, "as confident on them as"),
        (0.7, "less confident on them than"),
        (0.6, "less confident on them than"),
        (0.2, "much less confident on them than"),
    ],
)
def test_confidence_is_put_in_words(score, words):
    assert (
        f"the backbone is {words} on ImageNet's own photographs"
        in plan(evidence(by_confidence(score))).why
    )


def test_a_cut_before_the_best_stage_says_so():
    got = plan(evidence(by_confidence(0.2), sweep(0.02, 0.009, 0.0, 0.02)))
    assert got.cut == "layer2"
    assert "layer2 is the earliest stage within a standard error of the best" in got.why
    assert "0.9 points (+- 2.0) behind layer3" in got.why


def test_the_limit_between_small_and_large_can_be_set():
    assert plan(evidence(by_confidence(0.9)), large_from=1000).size == "large"
    assert plan(evidence(by_confidence(0.9)), large_from=1001).size == "small"


@pytest.mark.parametrize(
    ("options", "needed"),
    [
        ({}, True),
        ({"size": "small"}, True),
        ({"similarity": "different"}, True),
        ({"case": "small-different"}, True),  # the cut is measured
        ({"case": "small-similar"}, False),
        ({"case": "large-different"}, False),
        ({"size": "large", "similarity": "similar"}, False),
        ({"size": "small", "similarity": "different"}, True),
        ({"freeze": "layer2"}, False),
        ({"case": "small-different", "freeze": "layer2"}, False),
    ],
)
def test_nothing_is_measured_that_was_set_by_hand(options, needed):
    assert needs_evidence(Overrides(**options)) is needed


def test_the_evidence_is_plain_json_and_keeps_six_digits():
    text = json.dumps(plan(evidence(by_confidence(1 / 3))).to_dict())
    assert json.loads(text)["evidence"]["familiarity"]["score"] == 0.333333


def seconds(made, **more):
    """Forecast the seconds of a plan for 1,000 training images."""
    timing = Timing(image=0.02, share={"layer2": 0.5, "avgpool": 0.99}, step=0.1, step_image=0.08)
    given = {
        "n_train": 1000,
        "n_val": 200,
        "views": 2,
        "cached": 0,
        "parameters": 0,
        "n_classes": 5,
    } | more
    return forecast(made, timing, Workload(**given))


def test_the_forecast_orders_the_cases_by_what_they_compute():
    cases = {case: seconds(plan(evidence(stages=MIDDLE_BEST), case=case)) for case in CASES}
    assert cases["small-different"] < cases["small-similar"] < cases["large-similar"]
    frozen = 2200 * 0.02 * 0.99
    assert frozen < cases["small-similar"] < frozen + 8
    epochs = plan(evidence(), case="large-different").training.epochs
    assert cases["large-different"] > epochs * 1000 * 0.08


def test_cached_views_are_not_forecast():
    made = plan(evidence(), case="small-similar")
    assert seconds(made, cached=2200) < 8 < seconds(made)
