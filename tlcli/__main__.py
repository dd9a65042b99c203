"""The program: `tlcli`, or `python -m tlcli`."""

import gc
import sys


def main() -> None:
    """Run the command line. Ctrl-C during the imports exits as it does later on."""
    # Imported modules are never garbage, so do not spend start-up time on searching them for it.
    gc.disable()
    try:
        from tlcli.cli import run_app
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    finally:
        gc.freeze()
        gc.enable()
    run_app()


if __name__ == "__main__":
    main()
