"""Training configurations: how they are chosen and described, and the rate at each step."""

import itertools

import pytest
import torch

from tests.training.toy import toy_network
from tlcli.errors import UsageError
from tlcli.metrics.classification import macro_metric
from tlcli.planning import choose_training as choose_training_module
from tlcli.planning.choose_training import choose_training
from tlcli.planning.explain import describe_training
from tlcli.planning.optimizers import LR_SCHEDULES, OPTIMIZERS, OptimizerSpec
from tlcli.planning.training_config import TrainingConfig, count_unfrozen
from tlcli.planning.training_presets import SIZE_ADJUSTMENTS, TRAINING_PRESETS
from tlcli.runs.options import Options
from tlcli.training.class_balance import class_weights, sample_balanced
from tlcli.training.lr_finder import MAX_LR, MIN_LR, pick_lr, range_test
from tlcli.training.optim import lr_factor, make_optimizer


def chosen(preset="all", n=1000, **options):
    """Choose a training configuration from a preset and options."""
    return choose_training(preset, options, solvable=preset == "solve", n_train=n)[0]


@pytest.mark.parametrize("name", LR_SCHEDULES)
def test_the_rate_rises_in_the_warmup_and_never_after_it(name):
    config = chosen(lr_schedule=name, epochs=10, warmup=2.0)
    rates = [lr_factor(config, 7)(step) for step in range(70)]
    rise, fall = rates[: 2 * 7 + 1], rates[2 * 7 :]
    assert all(a < b for a, b in itertools.pairwise(rise))
    assert max(rates) == pytest.approx(1)
    assert all(a >= b for a, b in itertools.pairwise(fall))
    assert fall[-1] == 1 if name == "constant" else 0 < fall[-1] < 0.05


def test_without_a_warmup_the_first_step_is_a_full_one():
    for name in ("cosine", "linear", "constant"):
        assert lr_factor(TrainingConfig(lr_schedule=name, warmup=0.0), 5)(0) == 1


def test_the_warmup_depends_on_the_schedule_unless_it_is_set():
    assert chosen(lr_schedule="constant").warmup == 0
    assert chosen(lr_schedule="one-cycle", epochs=20).warmup == 6
    assert chosen(lr_schedule="one-cycle", epochs=20, warmup=1.0).warmup == 1
    assert chosen(lr_schedule="linear").warmup == TRAINING_PRESETS["all"].warmup
    with pytest.raises(UsageError, match="--warmup 9"):
        chosen(epochs=8, warmup=9.0)


@pytest.mark.parametrize("preset", TRAINING_PRESETS)
def test_more_images_never_ask_for_more_epochs(preset):
    epochs = [chosen(preset, n).epochs for n in (10, 499, 500, 30_000, 200_000, 10**6)]
    assert epochs == sorted(epochs, reverse=True)
    limits = [n for n, _ in SIZE_ADJUSTMENTS[preset]]
    assert limits == sorted(limits)
    assert chosen(preset, 10**6).optimizer == TRAINING_PRESETS[preset].optimizer


def test_options_win_over_the_number_of_images():
    assert chosen(n=10).batch_size < chosen(n=1000).batch_size
    assert chosen(n=10, batch_size=64).batch_size == 64
    assert chosen(n=10**6, epochs=30).epochs == 30


@pytest.mark.parametrize(
    ("preset", "options", "message"),
    [
        ("all", {"unfreeze": "slowly"}, "--unfreeze"),
        ("all", {"average": "mean"}, "--average"),
        ("all", {"metric": "accuracy"}, "--metric"),
        ("scratch", {"head_first": True}, "--head-first"),
        ("solve", {"head_first": True}, "--head-first"),
        ("solve", {"optimizer": "lbfgs", "dropout": 0.5}, "--dropout"),
        ("solve", {"optimizer": "lbfgs", "balance": "sampler"}, "--balance"),
    ],
)
def test_contradictions_are_refused_by_name(preset, options, message):
    with pytest.raises(UsageError, match=message):
        choose_training(preset, options, solvable=preset == "solve")


def test_a_solved_head_stays_solved_with_weights_and_a_metric_but_not_with_dropout():
    assert chosen("solve", balance="weights", metric="macro_f1").optimizer == "lbfgs"
    for options in ({"dropout": 0.2}, {"balance": "sampler"}, {"lr": "find"}, {"average": "ema"}):
        config, notes = choose_training("solve", options, solvable=True)
        assert config.optimizer == "adamw"
        assert f"--{next(iter(options))}" in notes[0]


def test_a_training_is_described_in_one_line():
    text = describe_training(chosen(lr="find", accumulate=2, average="ema", label_smoothing=0.1))
    for words in (
        "AdamW",
        "a measured learning rate",
        "batches of 32 x 2",
        "ema",
        "smoothing 0.1",
        "cosine",
    ):
        assert words in text
    assert "BatchNorm frozen" in describe_training(chosen(batchnorm="frozen"))
    assert "L-BFGS" in describe_training(chosen("solve", balance="weights"))
    assert "balanced by weights" in describe_training(chosen("solve", balance="weights"))


def test_unknown_optimizers_and_schedules_are_refused():
    network = toy_network()
    with pytest.raises(UsageError, match="--optimizer: 'adam'"):
        make_optimizer(network, TrainingConfig("adam"))
    with pytest.raises(UsageError, match="--lr-schedule: 'cosinus'"):
        lr_factor(TrainingConfig(lr_schedule="cosinus"), 5)
    with pytest.raises(ValueError, match="lbfgs solves a head"):
        make_optimizer(network, TrainingConfig("lbfgs"))


def test_every_optimizer_solves_or_is_of_the_class_that_its_entry_names():
    network = toy_network()
    for name, spec in OPTIMIZERS.items():
        config = TrainingConfig(name)
        assert config.solves_head != spec.takes_steps
        if spec.takes_steps:
            made = type(make_optimizer(network, config))
            assert issubclass(made, torch.optim.Optimizer)
            assert made.__name__ == spec.step_class.rpartition(".")[2]
        assert describe_training(config)
        assert set(spec.learning_rates) <= set(TRAINING_PRESETS)


class PlainSteps(torch.optim.SGD):
    """An optimizer that is not in torch.optim and takes no `fused`."""

    def __init__(self, params, lr, momentum):
        super().__init__(params, lr=lr, momentum=momentum)


def test_an_optimizer_outside_torch_needs_an_entry_only(monkeypatch):
    spec = OptimizerSpec(f"{__name__}.PlainSteps", "plain steps", ("momentum",), {"all": 0.5})
    monkeypatch.setitem(OPTIMIZERS, "plain", spec)
    monkeypatch.setattr(choose_training_module, "CHOICES", {})
    assert chosen("all", optimizer="plain").lr == 0.5
    assert chosen("part", optimizer="plain").lr == TRAINING_PRESETS["part"].lr
    made = make_optimizer(toy_network(), chosen(optimizer="plain", momentum=0.5))
    assert type(made) is PlainSteps
    assert made.defaults["momentum"] == 0.5
    assert chosen(optimizer="sgd", momentum=0.5).momentum == 0.5
    with pytest.raises(UsageError, match="--momentum needs --optimizer sgd or plain"):
        chosen(optimizer="adamw", momentum=0.5)


def test_sgd_has_its_own_learning_rate_for_every_preset():
    for preset in TRAINING_PRESETS.keys() - {"solve"}:
        assert chosen(preset, optimizer="sgd").lr > TRAINING_PRESETS[preset].lr


def test_gradual_unfreezing_goes_a_stage_an_epoch_and_ends_with_all():
    slow = TrainingConfig(unfreeze="gradual", epochs=10)
    assert [count_unfrozen(slow, e, 4) for e in range(1, 11)] == [1, 2, 3, 4, 4, 4, 4, 4, 4, 4]
    fast = TrainingConfig(unfreeze="gradual", epochs=3)
    assert [count_unfrozen(fast, e, 9) for e in (1, 2, 3)] == [3, 6, 9]
    assert count_unfrozen(TrainingConfig(), 1, 9) == 9


def test_class_weights_make_classes_count_the_same():
    labels = torch.tensor([0] * 6 + [1] * 3 + [3])
    weights = class_weights(labels, 5)
    sums = torch.zeros(5).index_add(0, labels, weights[labels])
    assert sums.tolist() == pytest.approx([10 / 3, 10 / 3, 0, 10 / 3, 0])
    assert weights[2] == weights[4] == 0
    assert weights[labels].mean().item() == pytest.approx(1)


def test_a_balanced_order_draws_each_class_as_often_and_each_image_in_turn():
    labels = torch.tensor([0] * 90 + [1] * 10 + [2] * 3)
    order = sample_balanced(labels, torch.Generator().manual_seed(3))
    assert len(order) == len(labels)
    counts = torch.bincount(labels[order])
    assert counts.max() - counts.min() <= 1
    for label in (1, 2):
        times = torch.bincount(order, minlength=103)[labels == label]
        assert times.max() - times.min() <= 1
    assert torch.bincount(order).max() <= 12  # no image of the large class twice
    again = sample_balanced(labels, torch.Generator().manual_seed(3))
    assert torch.equal(order, again)
    assert not torch.equal(order, sample_balanced(labels, torch.Generator().manual_seed(4)))


def test_the_metrics_of_classes_by_hand():
    labels, predicted = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 2, 1])
    assert macro_metric("balanced_accuracy", predicted, labels) == pytest.approx((2 / 3 + 1) / 2)
    assert macro_metric("macro_f1", predicted, labels) == pytest.approx((0.8 + 1) / 2)


def test_the_range_test_stops_where_the_loss_explodes_and_picks_a_rate_on_the_slope():
    def loss_at(lr):  # falls between 1e-4 and 1e-2, then explodes
        return (
            2.0 - 1.5 * min(max((torch.tensor(lr).log10().item() + 4) / 2, 0), 1) + (lr / 0.3) ** 3
        )

    curve = range_test(loss_at)
    assert curve[0][0] == MIN_LR
    assert curve[-1][0] < MAX_LR
    assert 1e-4 < pick_lr(curve) < 3e-2


def test_where_the_loss_hardly_falls_the_pick_is_below_where_it_rises():
    found = pick_lr(range_test(lambda lr: 0.1 + (lr / 0.01) ** 2))
    assert 1e-4 < found < 3e-3
    assert pick_lr(range_test(lambda _: float("nan"))) is None


def test_lr_is_a_number_or_find():
    assert Options(lr="0.01").lr == 0.01
    Options(lr="find").check()
    with pytest.raises(UsageError, match="--lr fast is neither"):
        Options(lr="fast").check()
    with pytest.raises(UsageError, match="--lr -1"):
        Options(lr="-1").check()
