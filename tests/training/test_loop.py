"""Training in steps on a toy of three stages: each option does what it says."""

import math
import time
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import stochastic_depth

from tests.fakes import RecordingReporter
from tlcli.backbones.network import Network
from tlcli.backbones.stages import Stage
from tlcli.errors import UserError
from tlcli.features.sources import CachedFeatures
from tlcli.planning.training_config import TrainingConfig
from tlcli.runtime.device import Compute
from tlcli.training import gradients
from tlcli.training.cpu_parallel import _Drawn
from tlcli.training.depthwise import fast_depthwise
from tlcli.training.freezing import set_mode
from tlcli.training.gradients import Gradients
from tlcli.training.loop import TrainingLoop
from tlcli.training.trainer import fit
from tlcli.training.validation import forward_all

CPU = Compute(torch.device("cpu"), None)
PLAIN = TrainingConfig(epochs=3, batch_size=4, warmup=0.0, lr=0.01)


def toy(dropout=None):
    """Two convolutions with BatchNorm, and a head with or without a dropout."""
    torch.manual_seed(0)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)]
    if dropout is not None:
        head.insert(2, nn.Dropout(dropout))
    stages = (
        Stage("a", "features", [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()]),
        Stage("b", "features", [nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU()]),
        Stage("head", "classifier", head),
    )
    return Network(None, stages, 0, dropped=False)


def data(n=18):
    draw = torch.Generator().manual_seed(1)
    codes, labels = torch.randn(n, 1, 3, 8, 8, generator=draw), torch.arange(n) % 3
    codes += labels[:, None, None, None, None]
    return CachedFeatures(codes, labels)


def run(config, network=None, source=None, reporter=None, compute=CPU):
    network, source = network or toy(), source or data()
    network.freeze()
    steps = TrainingLoop(network, len(source), config, compute, seed=0)
    rows = list(steps.epochs(source, "", reporter or RecordingReporter()))
    return network, steps, rows


def state(network):
    return {k: v.clone() for k, v in network.model.state_dict().items()}


def same(a, b):
    return {k for k in a if torch.equal(a[k], b[k])}


def test_the_loss_falls():
    _, _, rows = run(replace(PLAIN, epochs=8))
    assert rows[-1]["train_loss"] < 0.8 * rows[0]["train_loss"]


@pytest.mark.parametrize("batchnorm", ["adapt", "frozen"])
def test_batchnorm_adapts_or_keeps_its_bytes(batchnorm):
    before = state(toy())
    network, _, _ = run(replace(PLAIN, batchnorm=batchnorm))
    kept = same(before, state(network))
    running = {k for k in before if "running" in k or "tracked" in k}
    assert kept == (running if batchnorm == "frozen" else set())


def test_gradual_unfreezing_leaves_the_early_stages_alone_at_first():
    network, source = toy(), data()
    network.freeze()
    steps = TrainingLoop(network, len(source), replace(PLAIN, unfreeze="gradual"), CPU, seed=0)
    states = [state(network)]
    for _ in steps.epochs(source, "", RecordingReporter()):
        states.append(state(network))
    early = [{k for k in states[0] if k.startswith(p)} for p in ("0.", "1.", "2.")]
    assert same(states[0], states[1]) == early[0] | early[1]
    assert same(states[1], states[2]) == early[0]
    assert not same(states[2], states[3])


def test_smoothing_changes_the_loss_by_its_formula():
    still = replace(PLAIN, epochs=1, lr=1e-12, batchnorm="frozen", batch_size=18)
    network, source = toy(), data()
    logits, labels = forward_all(network.suffix, source, CPU)
    plain = F.cross_entropy(logits, labels).item()
    uniform = -logits.log_softmax(1).mean().item()
    assert run(still)[2][0]["train_loss"] == pytest.approx(plain, rel=1e-5)
    got = run(replace(still, label_smoothing=0.2))[2][0]["train_loss"]
    assert got == pytest.approx(0.8 * plain + 0.2 * uniform, rel=1e-5)


def test_labels_may_be_shares_of_classes_with_smoothing_and_weights():
    class Soft(CachedFeatures):
        def batches(self, order, batch_size, epoch=0):
            for x, y in super().batches(order, batch_size, epoch):
                yield x, F.one_hot(y, 3).float()

    config = replace(PLAIN, label_smoothing=0.1, balance="weights")
    source = data()
    source.labels = torch.tensor([0] * 9 + [1] * 6 + [2] * 3)
    soft = Soft(source.features, source.labels)
    hard, mixed = (run(config, source=s)[0] for s in (source, soft))
    for a, b in zip(state(hard).values(), state(mixed).values(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_class_weights_count_in_the_loss():
    still = replace(PLAIN, epochs=1, lr=1e-12, batchnorm="frozen", balance="weights")
    source = data()
    source.labels = torch.tensor([0] * 9 + [1] * 6 + [2] * 3)
    logits, labels = forward_all(toy().suffix, source, CPU)
    losses = F.cross_entropy(logits, labels, reduction="none")
    means = [losses[labels == c].mean().item() for c in range(3)]
    assert run(still, source=source)[2][0]["train_loss"] == pytest.approx(sum(means) / 3, rel=1e-5)


def test_the_sampler_draws_the_rare_class_as_often():
    seen = []

    class Watched(CachedFeatures):
        def batches(self, order, batch_size, epoch=0):
            seen.append(order)
            return super().batches(order, batch_size, epoch)

    labels = torch.tensor([0] * 12 + [1] * 4 + [2] * 2)
    source = Watched(data().features, labels)
    run(replace(PLAIN, balance="sampler"), source=source)
    assert [torch.bincount(labels[o]).tolist() for o in seen] == [[6, 6, 6]] * 3
    assert not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_averaged_weights_are_the_mean_by_hand(kind, monkeypatch):
    taken = []
    right = TrainingLoop._apply

    def watched(self):
        right(self)
        taken.append(state(self.network))

    monkeypatch.setattr(TrainingLoop, "_apply", watched)
    first = state(toy())
    network, _, _ = run(replace(PLAIN, epochs=4, average=kind))
    assert len(taken) == 20
    for name, value in state(network).items():
        if not value.is_floating_point():
            continue
        if kind == "swa":
            wanted = torch.stack([t[name] for t in taken[15:]]).mean(0)
        else:
            wanted = first[name]
            for t in taken:
                wanted = wanted + (t[name] - wanted) / 5  # an epoch has 5 steps
        assert torch.allclose(value, wanted, atol=1e-6), name
        assert not torch.equal(value, taken[-1][name])


def test_averaging_does_not_touch_what_is_trained(monkeypatch):
    taken = {}
    right = TrainingLoop._apply

    def watched(self):
        right(self)
        taken.setdefault(self.config.average, []).append(state(self.network))

    monkeypatch.setattr(TrainingLoop, "_apply", watched)
    for kind in ("none", "ema", "swa"):
        run(replace(PLAIN, average=kind))
    for kind in ("ema", "swa"):
        for a, b in zip(taken["none"], taken[kind], strict=True):
            assert same(a, b) == a.keys()


@pytest.mark.parametrize("dropout", [None, 0.1])
def test_dropout_stands_before_the_final_layer_and_no_name_changes(dropout):
    network = toy(dropout)
    names = {id(t) for t in network.model.state_dict(keep_vars=True).values()}
    TrainingLoop(network, 18, replace(PLAIN, dropout=0.7), CPU, seed=0)
    kinds = [type(m).__name__ for m in network.stages[-1].steps]
    assert kinds[-2:] == ["Dropout", "Linear"]
    assert kinds.count("Dropout") == 1
    assert network.stages[-1].steps[-2].p == 0.7
    assert {id(t) for t in network.model.state_dict(keep_vars=True).values()} == names


def test_the_range_test_restores_every_byte_and_is_the_same_each_time():
    before = state(toy())
    network, source, found = toy(), data(), []
    network.freeze()
    for _ in range(2):
        steps = TrainingLoop(network, len(source), replace(PLAIN, find_lr=True), CPU, seed=0)
        steps._find(source, RecordingReporter())
        found.append((steps.config.lr, steps.curve))
        assert same(before, state(network)) == before.keys()
    assert found[0] == found[1]
    assert 1e-5 < found[0][0] < 1
    assert len(found[0][1]) > 20
    # It then trains as one whose rate was set to that number by hand.
    trained, steps, _ = run(replace(PLAIN, find_lr=True))
    by_hand, _, _ = run(replace(PLAIN, lr=found[0][0]))
    assert same(state(trained), state(by_hand)) == before.keys()
    assert steps.state_dict()["lr"] == found[0][0]


def test_a_range_test_without_an_answer_says_so():
    source = data()
    source.features[:] = math.nan
    with pytest.raises(UserError, match="--lr find"):
        run(replace(PLAIN, find_lr=True), source=source)


def narrow(network, most, error):
    """Let the second stage run out of memory with more images than that."""
    stage = network.stages[1]
    right = stage.forward

    def forward(x):
        if len(x) > most:
            raise error
        return right(x)

    stage.forward = forward
    return network


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory."),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
]


@pytest.mark.parametrize("error", ERRORS, ids=["cuda", "cpu"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_running_out_of_memory_changes_nothing_but_the_parts(error, accumulate):
    config = replace(PLAIN, batchnorm="frozen", accumulate=accumulate)
    plain, _, _ = run(config)
    heard = RecordingReporter()
    halved, steps, rows = run(config, narrow(toy(), 1, error), reporter=heard)
    assert steps.gradients.room.max_images == 1
    assert steps.state_dict()["rows"] == 1
    assert len(heard.warnings) == 2  # 4 to 2, 2 to 1; not at every batch
    assert len(rows) == 3
    for a, b in zip(state(plain).values(), state(halved).values(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_running_out_in_the_backward_pass_leaves_no_half_gradients():
    config = replace(PLAIN, batchnorm="frozen", accumulate=3, optimizer="sgd")

    class Tight(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.rows = len(x)
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            if ctx.rows > 2:
                raise ERRORS[0]
            return grad

    network = toy()
    right = network.stages[0].forward
    network.stages[0].forward = lambda x: Tight.apply(right(x))
    plain, _, _ = run(config)
    halved, _, _ = run(config, network)
    for a, b in zip(state(plain).values(), state(halved).values(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_memory_that_does_not_suffice_for_one_image_is_told_and_other_errors_pass():
    with pytest.raises(UserError, match="one image"):
        run(PLAIN, narrow(toy(), 0, ERRORS[0]))
    with pytest.raises(RuntimeError, match="shapes"):
        run(PLAIN, narrow(toy(), 0, RuntimeError("shapes do not match")))


def test_evaluation_halves_too():
    plain = forward_all(toy().suffix, data(), CPU)
    halved = forward_all(narrow(toy(), 5, ERRORS[0]).suffix, data(), CPU)
    assert torch.allclose(plain[0], halved[0], atol=1e-6)
    assert torch.equal(plain[1], halved[1])


def test_the_fused_optimizers_take_the_steps_of_the_plain_ones(monkeypatch):
    from tlcli.training import optim

    # Adam's first steps go by the gradient's sign, which noise decides where it is next to zero.
    for optimizer, lr in (("adamw", 1e-5), ("sgd", 0.01)):
        config = replace(PLAIN, optimizer=optimizer, lr=lr, weight_decay=0.1)
        fused, _, _ = run(config)
        monkeypatch.setattr(optim, "FUSED_DEVICES", ())
        plain, steps, _ = run(config)
        monkeypatch.undo()
        assert not steps.optimizer.param_groups[0]["fused"]
        for a, b in zip(state(fused).values(), state(plain).values(), strict=True):
            assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("metric", ["top1", "loss", "balanced_accuracy", "macro_f1"])
def test_the_best_epoch_is_the_metrics(metric):
    network, source, val = toy(), data(), data(12)
    val.labels = torch.tensor([0] * 8 + [1] * 2 + [2] * 2)
    config = replace(PLAIN, epochs=6, metric=metric)
    got = fit_toy(network, source, val, config)
    values = [row[f"val_{metric}"] for row in got.history]
    best = min(values) if metric == "loss" else max(values)
    assert values[got.best_epoch - 1] == best


def fit_toy(network, source, val, config, compute=CPU):
    network.tensors = lambda *_: network.model.state_dict()
    return fit(
        network, source, val, config, compute, phase="", seed=0, reporter=RecordingReporter()
    )


def test_what_is_kept_is_the_average_and_it_is_what_was_validated():
    network, source, val = toy(), data(), data(12)
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
def test_a_state_taken_between_epochs_or_steps_goes_on_to_the_same_bytes(config):
    whole, _, _ = run(config)
    taken = []
    network, source = toy(), data()
    network.freeze()
    first = TrainingLoop(network, len(source), config, CPU, seed=0)
    first.on_step = lambda: taken.append((state(network), copied(first.state_dict())))
    for _ in first.epochs(source, "", RecordingReporter()):
        taken.append((state(network), copied(first.state_dict())))
    for tensors, held in taken[2], taken[-3], taken[len(taken) // 2], taken[-1]:
        later = toy()
        later.freeze()
        steps = TrainingLoop(later, len(source), config, CPU, seed=0)
        later.model.load_state_dict(tensors)
        torch.manual_seed(123)
        steps.load_state_dict(copied(held))
        list(steps.epochs(source, "", RecordingReporter()))
        assert same(state(whole), state(later)) == state(whole).keys()


def copied(value):
    """As read from a file: tensors of their own, plain values else."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {k: copied(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [copied(v) for v in value]
    assert value is None or isinstance(value, bool | int | float | str), value
    return value


def test_compiling_is_for_whole_batches_and_the_steps_are_the_same(monkeypatch):
    seen = []

    def compiled(suffix, **_):
        def forward(x):
            seen.append(len(x))
            return suffix(x)

        return forward

    monkeypatch.setattr(gradients.torch, "compile", compiled)
    network, _, _ = run(PLAIN, compute=replace(CPU, compiled=True))
    assert seen == [4] * 12  # the last two images of each epoch are no whole batch
    assert same(state(network), state(run(PLAIN)[0])) == state(network).keys()


def test_training_that_cannot_be_compiled_runs_as_it_would_without(monkeypatch):
    def refusing(*_, **__):
        def forward(_):
            raise RuntimeError("no compiler here\nand more")

        return forward

    monkeypatch.setattr(gradients.torch, "compile", refusing)
    reporter = RecordingReporter()
    network, *_ = run(PLAIN, reporter=reporter, compute=replace(CPU, compiled=True))
    assert same(state(network), state(run(PLAIN)[0])) == state(network).keys()
    [warning] = reporter.warnings
    assert "training cannot be compiled (no compiler here)" in warning


def test_remembered_maps_reach_the_suffix_channels_last():
    layouts = []
    network = toy()
    network.stages[0].register_forward_pre_hook(
        lambda _, args: layouts.append(args[0].is_contiguous(memory_format=torch.channels_last))
    )
    run(replace(PLAIN, epochs=1), network)
    assert all(layouts)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_the_fast_depthwise_gradients_are_those_of_fp32(kernel, stride):
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 8, kernel, stride, kernel // 2, groups=8, bias=False)
    x = torch.randn(4, 8, 13, 13, requires_grad=True)
    compute = replace(CPU, dtype=torch.bfloat16)
    seen = {}
    for name, context in (("fp32", nullcontext()), ("quick", fast_depthwise(compute))):
        with compute.autocast() if name == "quick" else nullcontext(), context:
            out = layer(x)
        out.float().square().sum().backward()
        seen[name] = out.float(), x.grad.float(), layer.weight.grad
        x.grad = layer.weight.grad = None
    assert out.grad_fn.name() == "_DepthwiseBackward"
    for a, b in zip(*seen.values(), strict=True):
        assert (a - b).abs().max() < 0.02 * a.abs().max()


def test_mixed_precision_on_the_cpu_trains_with_them(monkeypatch):
    calls = []
    right = gradients.fast_depthwise
    monkeypatch.setattr(
        gradients, "fast_depthwise", lambda compute: calls.append(compute) or right(compute)
    )
    compute = replace(CPU, dtype=torch.bfloat16)
    _, _, rows = run(replace(PLAIN, epochs=8), compute=compute)
    assert calls == [compute] * 40
    assert rows[-1]["train_loss"] < 0.8 * rows[0]["train_loss"]


@pytest.fixture
def two_threads():
    """Of torch's, so that parts of a batch are computed beside each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


FROZEN = replace(PLAIN, epochs=2, batch_size=16, batchnorm="frozen")


@pytest.mark.usefixtures("two_threads")
def test_parts_of_a_batch_beside_each_other_have_its_gradients():
    assert Gradients(toy().suffix, FROZEN, CPU).lanes.most == 2
    beside = run(FROZEN)[0]
    torch.set_num_threads(1)
    alone = run(FROZEN)[0]
    for name, mine in state(beside).items():
        torch.testing.assert_close(mine, state(alone)[name], rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("two_threads")
def test_what_lanes_draw_does_not_depend_on_which_was_first():
    found = [state(run(FROZEN, toy(dropout=0.5))[0]) for _ in range(6)]
    assert all(same(found[0], other) == set(other) for other in found)
    other = state(run(FROZEN, toy(dropout=0.1))[0])
    assert not torch.equal(found[0]["2.steps.3.weight"], other["2.steps.3.weight"])


def test_lanes_drop_as_many_as_they_should():
    with _Drawn(torch.Generator().manual_seed(0)):
        dropped = F.dropout(torch.ones(10_000), 0.3, True)
        kept = stochastic_depth(torch.ones(10_000, 1), 0.3, "row")
        assert torch.equal(F.dropout(torch.ones(3), 0.3, False), torch.ones(3))
    for x in (dropped, kept):
        assert (x == 0).float().mean().item() == pytest.approx(0.3, abs=0.02)
        assert x.mean().item() == pytest.approx(1, abs=0.03)


@pytest.mark.usefixtures("two_threads")
def test_batchnorm_that_learns_and_heads_on_codes_take_the_whole_batch():
    network = toy()
    network.freeze()
    lanes = Gradients(network.suffix, PLAIN, CPU).lanes
    assert lanes.of(torch.zeros(32, 3, 8, 8)) == 1
    set_mode(network.suffix, "frozen")
    assert lanes.of(torch.zeros(32, 3, 8, 8)) == 2
    assert lanes.of(torch.zeros(15, 3, 8, 8)) == 1
    assert lanes.of(torch.zeros(32, 6)) == 1


@pytest.mark.usefixtures("two_threads")
def test_lanes_leave_alone_what_does_not_learn():
    network = toy()
    network.freeze()
    set_mode(network.suffix, "frozen")
    network.stages[0].requires_grad_(False)
    gradients = Gradients(network.suffix, FROZEN, CPU)
    x, y = torch.randn(16, 3, 8, 8), torch.arange(16) % 3
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    for times in (1, 2):
        gradients.add([(x, y)] * times, 1, scaler, RecordingReporter(), 16)
    assert network.stages[0].steps[0].weight.grad is None
    assert network.final_layer.weight.grad.abs().sum() > 0


@pytest.mark.usefixtures("two_threads")
def test_scaled_gradients_are_not_dealt_to_lanes():
    """fp16 on a CPU: the scaler must have scaled what it unscales."""
    compute = Compute(torch.device("cpu"), torch.float16)
    network, _, rows = run(replace(FROZEN, epochs=6), compute=compute)
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    torch.set_num_threads(1)
    alone, _, _ = run(replace(FROZEN, epochs=6), compute=compute)
    for name, mine in state(network).items():
        torch.testing.assert_close(mine, state(alone)[name])


@pytest.mark.usefixtures("two_threads")
def test_where_memory_runs_out_in_a_lane_all_are_waited_for():
    lanes = Gradients(toy().suffix, FROZEN, CPU).lanes
    ended = []

    def compute(x, _):
        if x.sum() == 0:
            raise RuntimeError("out of memory")
        time.sleep(0.2)
        ended.append(True)
        return [None], x.sum()

    x = torch.cat([torch.zeros(8, 3), torch.ones(8, 3)])
    with pytest.raises(RuntimeError, match="out of memory"):
        lanes.sums(compute, x, torch.zeros(16), 2)
    assert ended == [True]
