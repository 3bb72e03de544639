"""Where the command line begins: it heeds signals before it loads anything else."""

from neuclip.foundation.interrupts import Interrupts

INTERRUPTS = Interrupts()


def main() -> None:
    """Enter the command line."""
    INTERRUPTS.heed()
    from neuclip.cli.main import app

    app()
