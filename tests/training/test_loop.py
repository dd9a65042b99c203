"""Training in steps on a toy network of three stages: each option does what it says."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from tests.fakes import RecordingReporter
from tests.training.toy import (
    CPU,
    PLAIN,
    copy_tensors,
    equal_tensors,
    fit_toy,
    toy_network,
    toy_source,
    train_toy,
)
from tlcli.errors import UserError
from tlcli.features.sources import CachedFeatures
from tlcli.training.loop import TrainingLoop
from tlcli.training.validation import forward_all


def test_the_loss_falls():
    _, _, rows = train_toy(replace(PLAIN, epochs=8))
    assert rows[-1]["train_loss"] < 0.8 * rows[0]["train_loss"]


@pytest.mark.parametrize("batchnorm", ["adapt", "frozen"])
def test_batchnorm_adapts_or_keeps_its_bytes(batchnorm):
    before = copy_tensors(toy_network())
    network, _, _ = train_toy(replace(PLAIN, batchnorm=batchnorm))
    kept = equal_tensors(before, copy_tensors(network))
    running = {k for k in before if "running" in k or "tracked" in k}
    assert kept == (running if batchnorm == "frozen" else set())


def test_gradual_unfreezing_leaves_the_early_stages_alone_at_first():
    network, source = toy_network(), toy_source()
    network.freeze()
    loop = TrainingLoop(network, len(source), replace(PLAIN, unfreeze="gradual"), CPU, seed=0)
    states = [copy_tensors(network)]
    for _ in loop.epochs(source, "", RecordingReporter()):
        states.append(copy_tensors(network))
    early = [{k for k in states[0] if k.startswith(p)} for p in ("0.", "1.", "2.")]
    assert equal_tensors(states[0], states[1]) == early[0] | early[1]
    assert equal_tensors(states[1], states[2]) == early[0]
    assert not equal_tensors(states[2], states[3])


def test_smoothing_changes_the_loss_by_its_formula():
    still = replace(PLAIN, epochs=1, lr=1e-12, batchnorm="frozen", batch_size=18)
    network, source = toy_network(), toy_source()
    logits, labels = forward_all(network.suffix, source, CPU)
    plain = F.cross_entropy(logits, labels).item()
    uniform = -logits.log_softmax(1).mean().item()
    assert train_toy(still)[2][0]["train_loss"] == pytest.approx(plain, rel=1e-5)
    got = train_toy(replace(still, label_smoothing=0.2))[2][0]["train_loss"]
    assert got == pytest.approx(0.8 * plain + 0.2 * uniform, rel=1e-5)


def test_labels_may_be_shares_of_classes_with_smoothing_and_weights():
    class Soft(CachedFeatures):
        def batches(self, order, batch_size, epoch=0):
            for x, y in super().batches(order, batch_size, epoch):
                yield x, F.one_hot(y, 3).float()

    config = replace(PLAIN, label_smoothing=0.1, balance="weights")
    source = toy_source()
    source.labels = torch.tensor([0] * 9 + [1] * 6 + [2] * 3)
    soft = Soft(source.features, source.labels)
    hard, mixed = (train_toy(config, source=s)[0] for s in (source, soft))
    for a, b in zip(copy_tensors(hard).values(), copy_tensors(mixed).values(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_class_weights_count_in_the_loss():
    still = replace(PLAIN, epochs=1, lr=1e-12, batchnorm="frozen", balance="weights")
    source = toy_source()
    source.labels = torch.tensor([0] * 9 + [1] * 6 + [2] * 3)
    logits, labels = forward_all(toy_network().suffix, source, CPU)
    losses = F.cross_entropy(logits, labels, reduction="none")
    means = [losses[labels == c].mean().item() for c in range(3)]
    assert train_toy(still, source=source)[2][0]["train_loss"] == pytest.approx(
        sum(means) / 3, rel=1e-5
    )


def test_the_sampler_draws_the_rare_class_as_often():
    seen = []

    class Watched(CachedFeatures):
        def batches(self, order, batch_size, epoch=0):
            seen.append(order)
            return super().batches(order, batch_size, epoch)

    labels = torch.tensor([0] * 12 + [1] * 4 + [2] * 2)
    source = Watched(toy_source().features, labels)
    train_toy(replace(PLAIN, balance="sampler"), source=source)
    assert [torch.bincount(labels[o]).tolist() for o in seen] == [[6, 6, 6]] * 3
    assert not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_averaged_weights_are_the_mean_by_hand(kind, monkeypatch):
    taken = []
    step = TrainingLoop._step_optimizer

    def watched(self):
        step(self)
        taken.append(copy_tensors(self.network))

    monkeypatch.setattr(TrainingLoop, "_step_optimizer", watched)
    first = copy_tensors(toy_network())
    network, _, _ = train_toy(replace(PLAIN, epochs=4, average=kind))
    assert len(taken) == 20
    for name, value in copy_tensors(network).items():
        if not value.is_floating_point():
            continue
        if kind == "swa":
            expected = torch.stack([t[name] for t in taken[15:]]).mean(0)
        else:
            expected = first[name]
            for t in taken:
                expected = expected + (t[name] - expected) / 5  # an epoch has 5 steps
        assert torch.allclose(value, expected, atol=1e-6), name
        assert not torch.equal(value, taken[-1][name])


def test_averaging_does_not_touch_what_is_trained(monkeypatch):
    taken = {}
    step = TrainingLoop._step_optimizer

    def watched(self):
        step(self)
        taken.setdefault(self.config.average, []).append(copy_tensors(self.network))

    monkeypatch.setattr(TrainingLoop, "_step_optimizer", watched)
    for kind in ("none", "ema", "swa"):
        train_toy(replace(PLAIN, average=kind))
    for kind in ("ema", "swa"):
        for a, b in zip(taken["none"], taken[kind], strict=True):
            assert equal_tensors(a, b) == a.keys()


@pytest.mark.parametrize("dropout", [None, 0.1])
def test_dropout_stands_before_the_final_layer_and_no_name_changes(dropout):
    network = toy_network(dropout)
    names = {id(t) for t in network.model.state_dict(keep_vars=True).values()}
    TrainingLoop(network, 18, replace(PLAIN, dropout=0.7), CPU, seed=0)
    kinds = [type(m).__name__ for m in network.stages[-1].steps]
    assert kinds[-2:] == ["Dropout", "Linear"]
    assert kinds.count("Dropout") == 1
    assert network.stages[-1].steps[-2].p == 0.7
    assert {id(t) for t in network.model.state_dict(keep_vars=True).values()} == names


def test_the_range_test_restores_every_byte_and_is_the_same_each_time():
    before = copy_tensors(toy_network())
    network, source, found = toy_network(), toy_source(), []
    network.freeze()
    for _ in range(2):
        loop = TrainingLoop(network, len(source), replace(PLAIN, find_lr=True), CPU, seed=0)
        loop._find_lr(source, RecordingReporter())
        found.append((loop.config.lr, loop.curve))
        assert equal_tensors(before, copy_tensors(network)) == before.keys()
    assert found[0] == found[1]
    assert 1e-5 < found[0][0] < 1
    assert len(found[0][1]) > 20
    # It then trains as one whose rate was set to that number by hand.
    trained, loop, _ = train_toy(replace(PLAIN, find_lr=True))
    by_hand, _, _ = train_toy(replace(PLAIN, lr=found[0][0]))
    assert equal_tensors(copy_tensors(trained), copy_tensors(by_hand)) == before.keys()
    assert loop.state_dict()["lr"] == found[0][0]


def test_a_range_test_without_a_pick_is_refused():
    source = toy_source()
    source.features[:] = math.nan
    with pytest.raises(UserError, match="--lr find"):
        train_toy(replace(PLAIN, find_lr=True), source=source)


@pytest.mark.parametrize("metric", ["top1", "loss", "balanced_accuracy", "macro_f1"])
def test_the_best_epoch_is_the_metrics(metric):
    network, source, val = toy_network(), toy_source(), toy_source(12)
    val.labels = torch.tensor([0] * 8 + [1] * 2 + [2] * 2)
    config = replace(PLAIN, epochs=6, metric=metric)
    got = fit_toy(network, source, val, config)
    values = [row[f"val_{metric}"] for row in got.history]
    best = min(values) if metric == "loss" else max(values)
    assert values[got.best_epoch - 1] == best


def test_what_is_kept_is_the_average_and_it_is_what_was_validated():
    network, source, val = toy_network(), toy_source(), toy_source(12)
    got = fit_toy(network, source, val, replace(PLAIN, average="ema", metric="loss"))
    logits, labels = forward_all(network.suffix, val, CPU)
    row = got.history[got.best_epoch - 1]
    assert F.cross_entropy(logits, labels).item() == pytest.approx(row["val_loss"], abs=1e-6)


@pytest.mark.parametrize(
    "config",
    [
        replace(PLAIN, average="ema"),
        replace(PLAIN, average="swa", epochs=4),
        replace(PLAIN, find_lr=True),
        replace(PLAIN, balance="sampler", unfreeze="gradual", optimizer="sgd", dropout=0.5),
        replace(PLAIN, balance="weights", label_smoothing=0.1, accumulate=2),
    ],
    ids=lambda s: f"{s.average}-{s.balance}-{s.find_lr}",
)
def test_a_state_taken_between_epochs_or_steps_is_resumed_to_the_same_bytes(config):
    full, _, _ = train_toy(config)
    taken = []
    network, source = toy_network(), toy_source()
    network.freeze()
    first = TrainingLoop(network, len(source), config, CPU, seed=0)
    first.on_step = lambda: taken.append((copy_tensors(network), copied(first.state_dict())))
    for _ in first.epochs(source, "", RecordingReporter()):
        taken.append((copy_tensors(network), copied(first.state_dict())))
    for tensors, held in taken[2], taken[-3], taken[len(taken) // 2], taken[-1]:
        later = toy_network()
        later.freeze()
        loop = TrainingLoop(later, len(source), config, CPU, seed=0)
        later.model.load_state_dict(tensors)
        torch.manual_seed(123)
        loop.load_state_dict(copied(held))
        list(loop.epochs(source, "", RecordingReporter()))
        assert equal_tensors(copy_tensors(full), copy_tensors(later)) == copy_tensors(full).keys()


def copied(value):
    """Copy a state as if it were read from a file."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {k: copied(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [copied(v) for v in value]
    assert value is None or isinstance(value, bool | int | float | str), value
    return value
