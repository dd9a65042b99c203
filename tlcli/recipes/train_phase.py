"""One phase of training: compute the features at its cut, then train the stages after it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

from tlcli.artifacts.tensorboard import Board, NoBoard
from tlcli.backbones.network import Network, is_linear
from tlcli.features.cache import FeatureCache
from tlcli.features.extractor import FeatureExtractor
from tlcli.features.reference_images import choose_reference_samples
from tlcli.features.sources import FeatureSources, make_sources
from tlcli.features.views import Views
from tlcli.planning.plan import Plan
from tlcli.planning.planned import Planned
from tlcli.planning.training_config import TrainingConfig
from tlcli.planning.training_presets import TRAINING_PRESETS
from tlcli.runs.context import RunContext
from tlcli.runs.progress import PhaseInputs, TrainingProgress
from tlcli.runs.request import RunRequest
from tlcli.runs.writer import RunWriter
from tlcli.training.calibration import hold_out
from tlcli.training.trainer import PhaseContext, fit


@dataclass(frozen=True)
class Phase:
    """A phase of training.

    Attributes:
        name: "head" and "all", or "" where there is only one phase.
        cut: how many leading stages are frozen.
    """

    name: str
    cut: int
    config: TrainingConfig


@dataclass(frozen=True)
class TrainingJob:
    """Everything that the phases of a run share.

    Attributes:
        views: the views of each training image that are cached.
        board: where the figures of each epoch are logged.
    """

    context: RunContext
    request: RunRequest
    writer: RunWriter
    planned: Planned
    network: Network
    views: Views
    cache: FeatureCache
    board: Board | NoBoard


def phases(plan: Plan, network: Network) -> Iterator[Phase]:
    """Yield the plan's phases: one, or the head alone on frozen features and then everything."""
    config = plan.training
    if config.head_first:
        # What has no pretrained weights belongs to the head: nothing frozen is random.
        cut = min(len(network.stages) - 1, network.backbone.pretrained)
        solvable = is_linear(network.backbone) and cut == len(network.stages) - 1
        head = TRAINING_PRESETS["solve" if solvable else "head"]
        # A solved head can only weight the classes, which has the same effect as sampling.
        balance = "weights" if solvable and config.balance == "sampler" else config.balance
        yield Phase("head", cut, replace(head, balance=balance, metric=config.metric))
    yield Phase("all" if config.head_first else "", network.cut, config)


def train_phases(job: TrainingJob, progress: TrainingProgress) -> None:
    """Train the plan's phases one after the other, from where the run is resumed.

    Ctrl-C in a training step and a loss that is not a number end the last phase early.
    """
    for index, phase in enumerate(phases(job.planned.plan, job.network)):
        if index < job.request.phase:
            continue
        train_phase(job, index, phase, progress)
        if progress.result.stopped in ("interrupted", "diverged"):
            break


def train_phase(job: TrainingJob, index: int, phase: Phase, progress: TrainingProgress) -> None:
    """Train one phase, from its beginning or from where the run is resumed.

    Args:
        index: the phase's position among all phases.
        progress: the results of the phases before; those of this phase are added.
    """
    context, request = job.context, job.request
    keeps_head = context.initial_model.keeps_head(job.planned.plan)
    state = request.fit if index == request.phase else None
    network = replace(job.network, cut=phase.cut)
    all_readable = bool(progress.history or state)
    sources = _make_sources(job, network, phase, progress, all_readable=all_readable)
    held_out = None
    if context.options.calibrate and not job.planned.plan.training.solves_head:
        sources, held_out = hold_out(sources)
    progress.latest = PhaseInputs(network, phase.config, sources, held_out)
    progress.dataset = sources.dataset
    progress.result = fit(
        network,
        sources.train,
        sources.val,
        phase.config,
        context.compute,
        PhaseContext(
            phase.name,
            context.options.seed,
            key_to_beat=progress.result.best_key,
            validate_first=keeps_head and not progress.history,
            state=state,
            on_epoch=job.board.add_row,
            on_best=partial(job.writer.save_best, progress.dataset),
            offer_state=partial(job.writer.save_state, progress, index),
        ),
        context.reporter,
    )
    progress.history = [*progress.history, *progress.result.history]
    progress.improved = progress.improved or progress.result.best_epoch is not None


def _make_sources(
    job: TrainingJob,
    network: Network,
    phase: Phase,
    progress: TrainingProgress,
    all_readable: bool,
) -> FeatureSources:
    """Compute the features at the phase's cut, or read them from the cache."""
    context, dataset = job.context, progress.dataset
    extractor = FeatureExtractor(
        network.prefix,
        network.backbone.preprocessing,
        context.compute,
        context.reporter,
        origin=network.backbone.origin,
        reference_samples=choose_reference_samples(dataset.train),
    )
    return make_sources(
        extractor,
        dataset,
        job.views,
        mixing=None if phase.name == "head" else job.planned.mixing,
        must_cache=phase.config.solves_head,
        all_readable=all_readable,
        cache=job.cache,
    )
