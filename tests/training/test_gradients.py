"""Gradients of a batch: in parts where memory runs out, and in parallel on a CPU."""

import time
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import stochastic_depth

from tests.fakes import RecordingReporter
from tests.training.toy import (
    CPU,
    PLAIN,
    copy_tensors,
    equal_tensors,
    toy_network,
    toy_source,
    train_toy,
)
from tlcli.errors import UserError
from tlcli.runtime.device import Compute
from tlcli.training.cpu_parallel import _SeededDropout
from tlcli.training.freezing import set_train_mode
from tlcli.training.gradients import Gradients
from tlcli.training.validation import forward_all


def limit_memory(network, max_images, error):
    """Let the second stage run out of memory with more than `max_images`."""
    stage = network.stages[1]
    plain_forward = stage.forward

    def forward(x):
        if len(x) > max_images:
            raise error
        return plain_forward(x)

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
    plain, _, _ = train_toy(config)
    reporter = RecordingReporter()
    halved, loop, rows = train_toy(config, limit_memory(toy_network(), 1, error), reporter=reporter)
    assert loop.gradients.batch_limit.max_images == 1
    assert loop.state_dict()["rows"] == 1
    assert len(reporter.warnings) == 2  # 4 to 2, 2 to 1; not at every batch
    assert len(rows) == 3
    for a, b in zip(copy_tensors(plain).values(), copy_tensors(halved).values(), strict=True):
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

    network = toy_network()
    forward = network.stages[0].forward
    network.stages[0].forward = lambda x: Tight.apply(forward(x))
    plain, _, _ = train_toy(config)
    halved, _, _ = train_toy(config, network)
    for a, b in zip(copy_tensors(plain).values(), copy_tensors(halved).values(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_too_little_memory_for_one_image_is_refused_and_other_errors_pass():
    with pytest.raises(UserError, match="one image"):
        train_toy(PLAIN, limit_memory(toy_network(), 0, ERRORS[0]))
    with pytest.raises(RuntimeError, match="shapes"):
        train_toy(PLAIN, limit_memory(toy_network(), 0, RuntimeError("shapes do not match")))


def test_evaluation_halves_too():
    plain = forward_all(toy_network().suffix, toy_source(), CPU)
    halved = forward_all(limit_memory(toy_network(), 5, ERRORS[0]).suffix, toy_source(), CPU)
    assert torch.allclose(plain[0], halved[0], atol=1e-6)
    assert torch.equal(plain[1], halved[1])


@pytest.fixture
def two_threads():
    """Let torch use two threads, so that parts of a batch are computed in parallel."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


FROZEN = replace(PLAIN, epochs=2, batch_size=16, batchnorm="frozen")


@pytest.mark.usefixtures("two_threads")
def test_parallel_parts_of_a_batch_have_its_gradients():
    assert Gradients(toy_network().suffix, FROZEN, CPU).parallel.max_parts == 2
    parallel = train_toy(FROZEN)[0]
    torch.set_num_threads(1)
    alone = train_toy(FROZEN)[0]
    for name, tensor in copy_tensors(parallel).items():
        torch.testing.assert_close(tensor, copy_tensors(alone)[name], rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("two_threads")
def test_what_parallel_parts_draw_does_not_depend_on_which_was_first():
    found = [copy_tensors(train_toy(FROZEN, toy_network(dropout=0.5))[0]) for _ in range(6)]
    assert all(equal_tensors(found[0], other) == set(other) for other in found)
    other = copy_tensors(train_toy(FROZEN, toy_network(dropout=0.1))[0])
    assert not torch.equal(found[0]["2.steps.3.weight"], other["2.steps.3.weight"])


def test_seeded_dropout_drops_as_many_as_it_should():
    with _SeededDropout(torch.Generator().manual_seed(0)):
        dropped = F.dropout(torch.ones(10_000), 0.3, True)
        kept = stochastic_depth(torch.ones(10_000, 1), 0.3, "row")
        assert torch.equal(F.dropout(torch.ones(3), 0.3, False), torch.ones(3))
    for x in (dropped, kept):
        assert (x == 0).float().mean().item() == pytest.approx(0.3, abs=0.02)
        assert x.mean().item() == pytest.approx(1, abs=0.03)


@pytest.mark.usefixtures("two_threads")
def test_adapting_batchnorm_and_heads_on_features_take_the_whole_batch():
    network = toy_network()
    network.freeze()
    parallel = Gradients(network.suffix, PLAIN, CPU).parallel
    assert parallel.count_parts(torch.zeros(32, 3, 8, 8)) == 1
    set_train_mode(network.suffix, "frozen")
    assert parallel.count_parts(torch.zeros(32, 3, 8, 8)) == 2
    assert parallel.count_parts(torch.zeros(15, 3, 8, 8)) == 1
    assert parallel.count_parts(torch.zeros(32, 6)) == 1


@pytest.mark.usefixtures("two_threads")
def test_parallel_parts_leave_alone_what_does_not_learn():
    network = toy_network()
    network.freeze()
    set_train_mode(network.suffix, "frozen")
    network.stages[0].requires_grad_(False)
    gradients = Gradients(network.suffix, FROZEN, CPU)
    x, y = torch.randn(16, 3, 8, 8), torch.arange(16) % 3
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    for times in (1, 2):
        gradients.add([(x, y)] * times, 1, scaler, RecordingReporter(), 16)
    assert network.stages[0].steps[0].weight.grad is None
    assert network.final_layer.weight.grad.abs().sum() > 0


@pytest.mark.usefixtures("two_threads")
def test_scaled_gradients_are_not_computed_in_parallel():
    """fp16 on a CPU: the scaler must have scaled what it unscales."""
    compute = Compute(torch.device("cpu"), torch.float16)
    network, _, rows = train_toy(replace(FROZEN, epochs=6), compute=compute)
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    torch.set_num_threads(1)
    alone, _, _ = train_toy(replace(FROZEN, epochs=6), compute=compute)
    for name, tensor in copy_tensors(network).items():
        torch.testing.assert_close(tensor, copy_tensors(alone)[name])


@pytest.mark.usefixtures("two_threads")
def test_where_memory_runs_out_in_one_part_all_are_waited_for():
    parallel = Gradients(toy_network().suffix, FROZEN, CPU).parallel
    ended = []

    def compute(x, _):
        if x.sum() == 0:
            raise RuntimeError("out of memory")
        time.sleep(0.2)
        ended.append(True)
        return [None], x.sum()

    x = torch.cat([torch.zeros(8, 3), torch.ones(8, 3)])
    with pytest.raises(RuntimeError, match="out of memory"):
        parallel.add_up(compute, x, torch.zeros(16), 2)
    assert ended == [True]
