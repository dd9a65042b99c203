"""The training of the stages behind the cut: epochs, validation, and the best epoch kept."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tlcli.backbones.network import Network
from tlcli.features.sources import CachedFeatures, FeatureSource
from tlcli.planning.training_config import TrainingConfig
from tlcli.reporter import Reporter
from tlcli.runtime.device import Compute
from tlcli.runtime.distributed.process_group import iterate_detecting_lost_peers
from tlcli.training.epoch import Diverged, HistoryRow
from tlcli.training.loop import TrainingLoop
from tlcli.training.lr_finder import Curve
from tlcli.training.progress_text import epoch_text, kept_text, validation_text
from tlcli.training.solved_head import solve_head
from tlcli.training.validation import validate, validation_key

UNVALIDATED = (-math.inf, -math.inf)
"""The validation key of a network that has not been validated."""

State = dict[str, Any]
"""A phase as it stands: all that `fit` needs to resume it as if it had never stopped."""
OfferState = Callable[[Callable[[], State], str], None]
"""A function of a function that makes the state, and of the moment: after a "step", an "epoch" or
the "last" epoch."""


@dataclass(frozen=True)
class PhaseContext:
    """The context of a training phase: where it starts, and the functions that it calls.

    Attributes:
        name: "head" or "all"; "" for the only phase.
        seed: the seed for every random draw.
        key_to_beat: the validation key that an epoch must exceed to be kept.
        validate_first: whether the network already predicts these classes: it is validated before
            the first epoch, and no worse epoch is kept.
        state: the state to resume from; None starts from the beginning.
        on_epoch: called with each epoch's row.
        on_best: called whenever the network is the best so far.
        offer_state: called when a state may be saved. A head that is solved has none.
    """

    name: str = ""
    seed: int = 0
    key_to_beat: tuple[float, float] = UNVALIDATED
    validate_first: bool = False
    state: State | None = None
    on_epoch: Callable[[HistoryRow], None] = lambda _row: None
    on_best: Callable[[], None] = lambda: None
    offer_state: OfferState = lambda _make, _when: None


@dataclass
class FitResult:
    """The outcome of a training phase.

    Attributes:
        history: one row per epoch: phase, epoch, lr, train_loss, train_top1, val_loss, val_top1,
            images_per_s, seconds.
        best_epoch: the epoch of `best_tensors`; None before the first has ended.
        best_tensors: the suffix's tensors by state-dict name, copied to the CPU; before the first
            epoch has ended, the ones that training began with.
        best_key: the validation key of `best_tensors`; more is better.
        epochs_since_best: the epochs without improvement in a row.
        stopped: "finished", "early" (patience), "interrupted" (Ctrl-C) or "diverged".
        problem: a text on the value that diverged, and where.
        l2_penalty: the penalty of a head that was solved.
        lr_curve: the rates and losses of the learning rate range test, if there was one.
        found_lr: the learning rate that was picked from the curve.
    """

    history: list[HistoryRow] = field(default_factory=list)
    best_epoch: int | None = None
    best_tensors: dict[str, Tensor] = field(default_factory=dict)
    best_key: tuple[float, float] = UNVALIDATED
    epochs_since_best: int = 0
    stopped: str = "finished"
    problem: str = ""
    l2_penalty: float | None = None
    lr_curve: Curve = field(default_factory=list)
    found_lr: float | None = None


def fit(
    network: Network,
    train: FeatureSource,
    val: FeatureSource | None,
    config: TrainingConfig,
    compute: Compute,
    phase: PhaseContext,
    reporter: Reporter,
) -> FitResult:
    """Train the suffix on the features of `train`; keep the best epoch by a metric on `val`.

    Without images in `val` the last epoch counts as the best. Ctrl-C and a loss that is no
    number end the phase with the best so far. On return the network holds the best.
    """
    trainer = _Trainer(network, config, compute, phase, reporter)
    rows = trainer.start(train, val)
    result = trainer.result
    try:
        for row in iterate_detecting_lost_peers(rows):
            trainer.end_epoch(row, val)
            if result.stopped == "early":
                break
    except KeyboardInterrupt:
        result.stopped = "interrupted"
    except Diverged as error:
        result.stopped = "diverged"
        result.problem = str(error)
    trainer.finish()
    return result


class _Trainer:
    """A phase in training.

    Attributes:
        tensors: the trained tensors by state-dict name.
        loop: takes the steps; None for a head that is solved.
        n_epochs: the number of epochs that are planned.
    """

    def __init__(
        self,
        network: Network,
        config: TrainingConfig,
        compute: Compute,
        phase: PhaseContext,
        reporter: Reporter,
    ) -> None:
        self.network, self.config, self.compute = network, config, compute
        self.phase, self.reporter = phase, reporter
        # Moving to a device or a memory format gives tensors new storage, so it comes first.
        network.suffix.to(compute.device).to(memory_format=torch.channels_last)
        network.freeze()
        self.tensors = network.tensors(network.stages[network.cut :])
        self.result = FitResult(best_tensors=self._copy_tensors(), best_key=phase.key_to_beat)
        self.loop: TrainingLoop | None = None
        self.n_epochs = 1
        self.started = 0.0

    def start(self, train: FeatureSource, val: FeatureSource | None) -> Iterator[HistoryRow]:
        """Return the epochs that are left; each row comes when its epoch has ended."""
        config, phase, earlier_seconds = self.config, self.phase, 0.0
        if config.solves_head:
            rows = self._solve(train)
        else:
            self.loop = TrainingLoop(self.network, len(train), config, self.compute, phase.seed)
            self.n_epochs = config.epochs
            if phase.state is not None:
                earlier_seconds = self._restore(phase.state, self.loop)
            self.loop.on_step = lambda: phase.offer_state(self._state, "step")
            rows = self.loop.epochs(train, phase.name, self.reporter)
        self.started = time.perf_counter() - earlier_seconds
        if phase.validate_first and phase.state is None:
            figures = self._validate(val)
            self.result.best_key = validation_key(figures, config.metric)
            if figures["val_top1"] is not None:
                text = validation_text(figures, config.metric)
                self.reporter.note(f"before training: {text}")
        if config.patience and self.result.epochs_since_best >= config.patience:
            self.result.stopped = "early"
            return iter(())
        return rows

    def _solve(self, train: FeatureSource) -> Iterator[HistoryRow]:
        """Solve the head instead of taking steps; yield one row."""
        solved = solve_head(self.network, train, self.config, self.phase.seed, self.reporter)
        self.result.l2_penalty = solved.l2_penalty
        yield {"phase": self.phase.name, **solved.row}

    def end_epoch(self, row: HistoryRow, val: FeatureSource | None) -> None:
        """Validate, report and, if it is the best, keep an epoch; stop early if patience is out.

        Raises:
            Diverged: the validation loss is no number.
        """
        config, result = self.config, self.result
        figures = self._validate(val)
        loss = figures["val_loss"]
        if loss is not None and not math.isfinite(loss):
            raise Diverged(f"the validation loss became {loss} in epoch {row['epoch']}")
        row |= figures
        row["seconds"] = round(time.perf_counter() - self.started, 3)
        result.history.append(row)
        self.reporter.note(epoch_text(row, self.n_epochs, config.metric))
        self.phase.on_epoch(row)
        key = validation_key(figures, config.metric)
        if loss is None or key > result.best_key:
            result.best_tensors = self._copy_tensors()
            result.best_key, result.epochs_since_best = key, 0
            result.best_epoch = int(row["epoch"] or 0)
            self.phase.on_best()
        else:
            result.epochs_since_best += 1
        early = 0 < config.patience <= result.epochs_since_best
        if self.loop is not None:
            last = early or row["epoch"] == self.n_epochs
            self.phase.offer_state(self._state, "last" if last else "epoch")
        if early:
            result.stopped = "early"

    def finish(self) -> None:
        """Put the best tensors into the network and report which epoch they are of."""
        result = self.result
        with torch.no_grad():
            for name, tensor in self.tensors.items():
                tensor.copy_(result.best_tensors[name])
        if self.loop is not None and self.loop.curve:
            result.lr_curve, result.found_lr = self.loop.curve, self.loop.config.lr
        if len(result.history) > 1 or (result.history and result.best_epoch is None):
            patience = self.config.patience if result.stopped == "early" else 0
            self.reporter.note(kept_text(result.best_epoch, patience))

    def _validate(self, val: FeatureSource | None) -> dict[str, float | None]:
        """Validate the network as it is."""
        # Cached val features are of fp32, as the metrics are. To compute all of val in fp32 would
        # take twice as long in every epoch.
        cached = isinstance(val, CachedFeatures)
        compute = self.compute.reference() if cached else self.compute
        return validate(self.network.suffix, val, self.config.metric, compute)

    def _copy_tensors(self) -> dict[str, Tensor]:
        """Copy the trained tensors to the CPU."""
        return {k: v.detach().cpu().clone() for k, v in self.tensors.items()}

    def _state(self) -> State:
        """Return the phase as it stands; "best" is None where the best tensors are the current."""
        assert self.loop is not None
        result = self.result
        same = all(torch.equal(v.cpu(), result.best_tensors[k]) for k, v in self.tensors.items())
        return {
            "now": dict(self.tensors),
            "best": None if same else result.best_tensors,
            "best_epoch": result.best_epoch,
            "best_key": list(result.best_key),
            "worse": result.epochs_since_best,
            "history": result.history,
            "seconds": time.perf_counter() - self.started,
            "steps": self.loop.state_dict(),
        }

    @torch.no_grad()
    def _restore(self, state: State, loop: TrainingLoop) -> float:
        """Put everything back as it was in `state`; return the seconds that had passed."""
        for name, tensor in self.tensors.items():
            tensor.copy_(state["now"][name])
        result = self.result
        result.best_tensors = state["best"] or self._copy_tensors()
        result.best_epoch, result.epochs_since_best = state["best_epoch"], state["worse"]
        result.best_key = (state["best_key"][0], state["best_key"][1])
        result.history = list(state["history"])
        loop.load_state_dict(state["steps"])
        return float(state["seconds"])
