"""The program: `tlcli`, or `python -m tlcli`."""

import sys


def main() -> None:
    """Run the command line. Ctrl-C during the imports exits as it does later on."""
    try:
        from tlcli.cli import run_app
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    run_app()


if __name__ == "__main__":
    main()
