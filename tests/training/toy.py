"""A toy network of three stages with features to train it on."""

import torch
from torch import nn

from tests.fakes import RecordingReporter
from tlcli.backbones.network import Network
from tlcli.backbones.stages import Stage
from tlcli.features.sources import CachedFeatures
from tlcli.planning.training_config import TrainingConfig
from tlcli.runtime.device import Compute
from tlcli.training.loop import TrainingLoop
from tlcli.training.trainer import PhaseContext, fit

CPU = Compute(torch.device("cpu"), None)
PLAIN = TrainingConfig(epochs=3, batch_size=4, warmup=0.0, lr=0.01)


def toy_network(dropout=None):
    """Build two convolutions with BatchNorm and a head, with or without dropout."""
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


def toy_source(n=18):
    """Draw features of three classes, [n, 1, 3, 8, 8]."""
    generator = torch.Generator().manual_seed(1)
    features, labels = torch.randn(n, 1, 3, 8, 8, generator=generator), torch.arange(n) % 3
    features += labels[:, None, None, None, None]
    return CachedFeatures(features, labels)


def train_toy(config, network=None, source=None, reporter=None, compute=CPU):
    """Train for some epochs; return the network, the loop and the rows of the epochs."""
    network, source = network or toy_network(), source or toy_source()
    network.freeze()
    loop = TrainingLoop(network, len(source), config, compute, seed=0)
    rows = list(loop.epochs(source, "", reporter or RecordingReporter()))
    return network, loop, rows


def copy_tensors(network):
    """Copy the tensors of a network."""
    return {k: v.clone() for k, v in network.model.state_dict().items()}


def equal_tensors(a, b):
    """Return the names of the tensors that are equal."""
    return {k for k in a if torch.equal(a[k], b[k])}


def fit_toy(network, source, val, config, compute=CPU):
    """Run the trainer on a toy network."""
    network.tensors = lambda *_: network.model.state_dict()
    return fit(network, source, val, config, compute, PhaseContext(), RecordingReporter())
