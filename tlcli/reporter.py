"""How the packages report progress without knowing of a terminal."""

import warnings


class Reporter:
    """Hears what a long job has to say. This one is for use from Python: quiet but for warnings.

    The command line gives one that draws on stderr (`tlcli.cli.progress`).
    """

    def note(self, text: str) -> None:
        """A line that a person wants to read once: a decision, a forecast, a file written."""

    def warn(self, text: str) -> None:
        """Something that is not as expected, though the job goes on."""
        warnings.warn(text, stacklevel=3)

    def progress(
        self, task: str, done: int, total: int, unit: str = "images", **figures: float
    ) -> None:
        """`done` of `total` of `task` are done; `figures` are loss, accuracy and the like.

        The unit is "images", "steps" or "bytes".

        `done == total` ends the task.
        """
