"""Runs that are stopped: their folder is kept, and the message says how to resume them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tlcli.artifacts import run_folder as run
from tlcli.artifacts.atomic import Unwritable
from tlcli.errors import UserError
from tlcli.reporter import Reporter
from tlcli.runtime.distributed.process_group import raise_if_peer_lost
from tlcli.runtime.memory import is_out_of_memory, out_of_memory_error


def resume_command(folder: Path) -> str:
    """Return the part of a message that says how to resume the run in `folder`."""
    return f"to resume: tlcli finetune --resume {folder}"


@contextmanager
def resumable(folder: Path, new: bool, reporter: Reporter) -> Iterator[None]:
    """Keep the folder of a run that is stopped in the block, and say how to resume it.

    The folder of a new run that fails before it has a model is removed.

    Args:
        new: whether this process began the run.

    Raises:
        UserError: the error that stopped the run, with a hint how to resume it.
    """
    how = resume_command(folder)
    try:
        yield
    except Unwritable as error:
        if not run.read_run_json(folder):
            run.remove_unfinished(folder)
            raise
        raise UserError(error.message, f"{error.hint}; {how}") from error
    except UserError:
        if new and not (folder / run.BUNDLE).exists():
            run.remove_unfinished(folder)
        raise
    except (KeyboardInterrupt, SystemExit):
        raise_if_peer_lost(f"; {how}")
        reporter.note(how)
        raise
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise out_of_memory_error(
            "to continue training",
            f"free some memory first; {how}; a new run with a smaller --batch-size needs less",
        ) from error
