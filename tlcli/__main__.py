"""The program: `tlcli`, or `python -m tlcli`."""

import sys


def main() -> None:
    """The command line; Ctrl-C while it is still being loaded ends it as later on."""
    try:
        from tlcli.cli import main as run
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
