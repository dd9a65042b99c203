"""The plan is a pure function: tables of what goes in and what comes out, without torch."""

import subprocess
import sys

import pytest

from tlcli.errors import UsageError
from tlcli.planning.cases import CASES, LARGE_FROM, Overrides
from tlcli.planning.cut import StageFacts
from tlcli.planning.plan import make_plan

WITHOUT_TORCH = (
    "cases",
    "choose_training",
    "cut",
    "decision",
    "evidence",
    "explain",
    "forecast",
    "json_fields",
    "optimizers",
    "plan",
    "training_config",
    "training_presets",
)
VGG = [
    *(StageFacts(f"block{i}", "features", 1000 * i) for i in range(1, 6)),
    StageFacts("avgpool", "features", 0),
    StageFacts("classifier.0", "classifier", 5000),
    StageFacts("classifier.3", "classifier", 4000),
    StageFacts("head", "classifier", 1000),
]
RESNET = [
    StageFacts("stem", "features", 100),
    *(StageFacts(f"layer{i}", "features", 1000 * i) for i in range(1, 5)),
    StageFacts("avgpool", "features", 0),
    StageFacts("head", "classifier", 100),
]


def plan(stages=RESNET, *, pretrained=None, linear=True, n=100, **options):
    training = {
        k: options.pop(k)
        for k in list(options)
        if k not in ("case", "size", "similarity", "freeze")
    }
    return make_plan(
        stages,
        pretrained=len(stages) if pretrained is None else pretrained,
        linear_head=linear,
        n_train=n,
        overrides=Overrides(**options, training=training),
    )


@pytest.mark.parametrize(
    ("case", "cut", "trained", "dropped", "optimizer"),
    [
        ("small-similar", "avgpool", ("head",), (), "lbfgs"),
        (
            "small-different",
            "layer3",
            ("new_head",),
            ("layer4", "avgpool", "head"),
            "lbfgs",
        ),
        ("large-similar", "none", tuple(s.name for s in RESNET), (), "adamw"),
        ("large-different", "none", tuple(s.name for s in RESNET), (), "adamw"),
    ],
)
def test_each_case_is_a_cut(case, cut, trained, dropped, optimizer):
    got = plan(case=case)
    assert (got.case, got.cut, got.trained, got.dropped) == (case, cut, trained, dropped)
    assert got.training.optimizer == optimizer
    size, similarity = case.split("-")
    assert plan(size=size, similarity=similarity).cut == cut
    assert (got.size, got.similarity) == (size, similarity)
    assert got.override == (f"--case {case}",)


def test_left_alone_it_looks_at_size_and_says_that_similarity_is_not_measured():
    small, large = plan(n=LARGE_FROM - 1), plan(n=LARGE_FROM)
    assert (small.case, large.case) == ("small-similar", "large-similar")
    assert "9,999 training images are a small dataset" in small.why
    assert "not measured" in small.why
    assert small.override == ()


def test_large_similar_trains_the_head_first_and_early_stages_slower():
    config = plan(case="large-similar").training
    assert config.head_first
    assert config.layer_decay < 1


@pytest.mark.parametrize(
    ("freeze", "cut", "first"),
    [
        ("none", "none", "block1"),
        ("block2", "block2", "block3"),
        ("block5", "avgpool", "classifier.0"),  # pooling has nothing to train
        ("features", "avgpool", "classifier.0"),
        ("classifier.0", "classifier.0", "classifier.3"),
        ("all-but-head", "classifier.3", "head"),
    ],
)
def test_freeze_sets_the_cut_by_hand(freeze, cut, first):
    got = plan(VGG, freeze=freeze)
    assert (got.case, got.cut, got.trained[0], got.dropped) == ("custom", cut, first, ())
    assert got.override == (f"--freeze {freeze}",)


def test_freeze_moves_the_cut_of_a_case_that_drops():
    got = plan(VGG, case="small-different", freeze="block1")
    assert got.cut == "block1"
    assert got.trained == ("new_head",)
    assert got.dropped[0] == "block2"


def test_no_cut_lies_behind_a_tensor_that_is_not_pretrained():
    features_only = 6
    got = plan(VGG, pretrained=features_only, case="small-similar")
    assert got.cut == "avgpool"
    assert got.trained == ("classifier.0", "classifier.3", "head")
    assert got.training.optimizer == "adamw"  # more than a linear head
    assert "no pretrained weights" in got.why
    scratch = plan(VGG, pretrained=0, case="small-different")
    assert (scratch.cut, scratch.dropped) == ("none", ())
    assert not scratch.training.head_first
    assert "from scratch" in scratch.why


def test_a_head_that_is_not_linear_is_trained_in_steps():
    assert plan(linear=False, case="small-similar").training.optimizer == "adamw"
    assert plan(linear=False, case="small-different").training.optimizer == "lbfgs"


def test_options_win_and_a_step_option_turns_the_solver_off():
    got = plan(case="small-similar", lr=0.5, epochs=3)
    assert (got.training.optimizer, got.training.lr, got.training.epochs) == ("adamw", 0.5, 3)
    assert "AdamW instead of L-BFGS" in got.why
    sgd = plan(VGG, freeze="features", optimizer="sgd", lr=0.001)
    assert (sgd.training.optimizer, sgd.training.lr, sgd.training.momentum) == ("sgd", 0.001, 0.9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"case": "smal-similar"}, "--case: 'smal-similar'"),
        ({"case": "small-similar", "size": "small"}, "--case already says"),
        ({"size": "big"}, "--size: 'big'"),
        ({"freeze": "layer9"}, "--freeze: 'layer9'"),
        ({"freeze": "head"}, "nothing would be left"),
        ({"optimizer": "adam"}, "--optimizer: 'adam'"),
        ({"lr_schedule": "cosinus"}, "--lr-schedule"),
        ({"init": "zeros"}, "--init"),
        ({"case": "large-similar", "optimizer": "lbfgs"}, "linear head only"),
        ({"optimizer": "lbfgs", "lr": 0.1}, "takes no --lr"),
        ({"optimizer": "adamw", "momentum": 0.5}, "--momentum needs --optimizer sgd"),
    ],
)
def test_contradictions_are_refused_by_name(options, message):
    with pytest.raises(UsageError, match="--") as caught:
        plan(**options)
    assert message in caught.value.message


def test_a_mistyped_stage_is_guessed():
    with pytest.raises(UsageError) as caught:
        plan(freeze="layr2")
    assert "layer2" in caught.value.hint


def test_every_pair_of_halves_is_one_case():
    pairs = {(c.size, c.similarity) for c in CASES.values()}
    assert len(pairs) == len(CASES) == 4


def test_planning_needs_no_torch():
    modules = ", ".join(f"tlcli.planning.{name}" for name in WITHOUT_TORCH)
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_half_of_a_case_and_a_cut_by_hand_is_still_that_case():
    whole = plan(case="small-different", freeze="layer2")
    halves = plan(size="small", similarity="different", freeze="layer2")
    assert (whole.cut, whole.trained, whole.dropped) == (halves.cut, halves.trained, halves.dropped)
    assert halves.case == "small-different"


def test_the_reason_does_not_speak_of_a_cut_that_was_set_by_hand():
    got = plan(case="small-similar", freeze="layer2")
    assert "only a new head" not in got.why
    assert "--freeze layer2" in got.why


def test_init_and_a_solved_head_exclude_each_other():
    got = plan(case="large-similar", init="normal")
    assert not got.training.head_first
    assert "--init" in got.why


def test_an_empty_name_is_no_stage():
    with pytest.raises(UsageError, match="--freeze"):
        plan(freeze="")
