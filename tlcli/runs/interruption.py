"""What is left of a run that is stopped."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tlcli.artifacts import run_folder as run
from tlcli.artifacts.atomic import Unwritable
from tlcli.errors import UserError
from tlcli.reporter import Reporter
from tlcli.runtime.distributed.process_group import raise_if_peer_lost
from tlcli.runtime.memory import is_out_of_memory, out_of_memory_error


@contextmanager
def resumable(folder: Path, new: bool, reporter: Reporter) -> Iterator[None]:
    """Keep the folder of a run that is stopped, and say how it goes on.

    The folder of a new one that could not have been trained is taken back.

    Raises:
        UserError: what it ended by, with how it goes on; another process of the job, say.
    """
    how = f"tlcli finetune --resume {folder} goes on"
    try:
        yield
    except Unwritable as error:
        if not run.read_run_json(folder):
            run.remove_unfinished(folder)
            raise
        raise UserError(error.message, f"{error.hint}; then {how}") from error
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
            f"once there is, {how}; a new run with a smaller --batch-size needs less",
        ) from error
