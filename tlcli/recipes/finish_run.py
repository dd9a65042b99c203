"""The end of a run: calibrate, compute the metrics, save, and say how it ended."""

import time
from functools import partial

from tlcli.errors import UserError
from tlcli.metrics.classification import metrics_of_no_images
from tlcli.metrics.metrics import Metrics
from tlcli.planning.explain import forecast_error_text
from tlcli.planning.planned import Planned
from tlcli.recipes.train_phase import TrainingJob
from tlcli.reporter import Reporter
from tlcli.runs.interruption import resume_command
from tlcli.runs.progress import TrainingProgress
from tlcli.runs.score import score_network
from tlcli.runtime.distributed.collectives import run_on_rank0
from tlcli.runtime.distributed.process_group import raise_if_peer_lost
from tlcli.training.calibration import calibrate


def calibrate_and_score(job: TrainingJob, progress: TrainingProgress) -> Metrics:
    """Calibrate the trained network and compute its metrics.

    Raises:
        KeyboardInterrupt: training was interrupted before the network had improved.
        UserError: training ended in another way before it had.
    """
    context, result, latest = job.context, progress.result, progress.latest
    if not progress.improved:
        if result.stopped == "interrupted":
            raise KeyboardInterrupt
        raise_if_incomplete(job, progress)
    assert latest is not None
    if context.options.calibrate and result.stopped in ("finished", "early"):
        job.writer.calibration = calibrate(
            latest.network,
            latest.sources.train,
            latest.held_out,
            result.l2_penalty,
            context.compute.reference(),
            seed=context.options.seed,
            reporter=context.reporter,
        )
    if result.stopped == "interrupted":
        # Computing the metrics may take long, and whoever stopped the run may not wait.
        save_run(job, progress, metrics_of_no_images(progress.dataset.classes))
    temperature = job.writer.calibration.temperature
    compute, reporter = context.compute, context.reporter
    return score_network(latest.network, latest.sources, compute, reporter, temperature, job.cache)


def save_run(job: TrainingJob, progress: TrainingProgress, metrics: Metrics) -> None:
    """Write everything that the run folder holds; rank 0 does."""
    run_on_rank0(partial(job.writer.save, progress, metrics))


def raise_if_incomplete(job: TrainingJob, progress: TrainingProgress) -> None:
    """Raise the error of a run that lost a process or whose training diverged.

    Raises:
        UserError: another process of the job has ended, or the loss is not a number.
    """
    folder, result, latest = job.context.folder, progress.result, progress.latest
    saved = f"; the best so far is saved in {folder}" if progress.improved else ""
    raise_if_peer_lost(f"{saved}; {resume_command(folder)}")
    if result.stopped == "diverged" and latest is not None:
        raise UserError(
            f"{result.problem}, so training was stopped{saved}",
            "is the weight file damaged? --precision fp32 may help too"
            if latest.config.solves_head
            else f"try a smaller --lr (it was {latest.config.lr:g}) or --precision fp32",
        )


def report_forecast_error(
    planned: Planned, progress: TrainingProgress, planned_at: float, reporter: Reporter
) -> None:
    """Report how long the run took after its plan, beside the forecast.

    Args:
        planned_at: when the plan was made, by `time.perf_counter`.
    """
    if "plan" in planned.forecast_s and progress.result.stopped == "finished":
        seconds = time.perf_counter() - planned_at
        error = forecast_error_text(planned.forecast_s["plan"], seconds)
        reporter.note(f"after the plan: {error}")
