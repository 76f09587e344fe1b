"""How this package's processes show their warnings."""

import logging


def show_warnings() -> None:
    """Writes the warnings of this process to stderr; for where a process begins, nowhere else."""
    logging.basicConfig(format="llava-eval: %(levelname)s: %(message)s")
