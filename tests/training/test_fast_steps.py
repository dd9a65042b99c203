"""Fast training steps: fused, compiled, channels-last, mixed precision."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.fakes import RecordingReporter
from tests.training.toy import CPU, PLAIN, copy_tensors, equal_tensors, toy_network, train_toy
from tlcli.training import gradients
from tlcli.training.depthwise import fast_depthwise


def test_the_fused_optimizers_take_the_steps_of_the_plain_ones(monkeypatch):
    from tlcli.training import optim

    # Adam's first steps go by the gradient's sign, which noise decides where it is next to zero.
    for optimizer, lr in (("adamw", 1e-5), ("sgd", 0.01)):
        config = replace(PLAIN, optimizer=optimizer, lr=lr, weight_decay=0.1)
        fused, _, _ = train_toy(config)
        monkeypatch.setattr(optim, "FUSED_DEVICES", ())
        plain, loop, _ = train_toy(config)
        monkeypatch.undo()
        assert not loop.optimizer.param_groups[0]["fused"]
        for a, b in zip(copy_tensors(fused).values(), copy_tensors(plain).values(), strict=True):
            assert torch.allclose(a, b, atol=1e-5)


def test_compiling_is_for_whole_batches_and_the_steps_are_the_same(monkeypatch):
    seen = []

    def compiled(suffix, **_):
        def forward(x):
            seen.append(len(x))
            return suffix(x)

        return forward

    monkeypatch.setattr(gradients.torch, "compile", compiled)
    network, _, _ = train_toy(PLAIN, compute=replace(CPU, compiled=True))
    assert seen == [4] * 12  # the last two images of each epoch are no whole batch
    assert (
        equal_tensors(copy_tensors(network), copy_tensors(train_toy(PLAIN)[0]))
        == copy_tensors(network).keys()
    )


def test_training_that_cannot_be_compiled_runs_uncompiled(monkeypatch):
    def refusing(*_, **__):
        def forward(_):
            raise RuntimeError("no compiler here\nand more")

        return forward

    monkeypatch.setattr(gradients.torch, "compile", refusing)
    reporter = RecordingReporter()
    network, *_ = train_toy(PLAIN, reporter=reporter, compute=replace(CPU, compiled=True))
    assert (
        equal_tensors(copy_tensors(network), copy_tensors(train_toy(PLAIN)[0]))
        == copy_tensors(network).keys()
    )
    [warning] = reporter.warnings
    assert "training cannot be compiled (no compiler here)" in warning


def test_cached_maps_reach_the_suffix_channels_last():
    layouts = []
    network = toy_network()
    network.stages[0].register_forward_pre_hook(
        lambda _, args: layouts.append(args[0].is_contiguous(memory_format=torch.channels_last))
    )
    train_toy(replace(PLAIN, epochs=1), network)
    assert all(layouts)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_the_fast_depthwise_gradients_are_those_of_fp32(kernel, stride):
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 8, kernel, stride, kernel // 2, groups=8, bias=False)
    x = torch.randn(4, 8, 13, 13, requires_grad=True)
    compute = replace(CPU, dtype=torch.bfloat16)
    outputs = {}
    for name, context in (("fp32", nullcontext()), ("fast", fast_depthwise(compute))):
        with compute.autocast() if name == "fast" else nullcontext(), context:
            out = layer(x)
        out.float().square().sum().backward()
        outputs[name] = out.float(), x.grad.float(), layer.weight.grad
        x.grad = layer.weight.grad = None
    assert out.grad_fn.name() == "_DepthwiseBackward"
    for a, b in zip(*outputs.values(), strict=True):
        assert (a - b).abs().max() < 0.02 * a.abs().max()


def test_mixed_precision_on_the_cpu_trains_with_them(monkeypatch):
    calls = []
    right = gradients.fast_depthwise
    monkeypatch.setattr(
        gradients, "fast_depthwise", lambda compute: calls.append(compute) or right(compute)
    )
    compute = replace(CPU, dtype=torch.bfloat16)
    _, _, rows = train_toy(replace(PLAIN, epochs=8), compute=compute)
    assert calls == [compute] * 40
    assert rows[-1]["train_loss"] < 0.8 * rows[0]["train_loss"]
