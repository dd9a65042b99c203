"""Progress reports from the packages, which know of no terminal."""

import warnings


class Reporter:
    """Receives the notes, warnings and progress of a long job.

    This one is for use from Python: it passes warnings on to `warnings` and drops the rest. The
    command line has one that draws on stderr.
    """

    def note(self, text: str) -> None:
        """Report a line to read once: a decision, a forecast, a file written."""

    def warn(self, text: str) -> None:
        """Report something unexpected that does not stop the job."""
        warnings.warn(text, stacklevel=3)

    def progress(
        self, task: str, done: int, total: int, unit: str = "images", **figures: float
    ) -> None:
        """Report that `done` of `total` are done; `done == total` ends the task.

        Args:
            unit: "images", "steps" or "bytes".
            figures: the loss, the accuracy and the like so far.
        """
