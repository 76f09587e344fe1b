"""`python -m llava_eval` and the console script `llava-eval`."""

import logging
import sys
from io import TextIOWrapper

from llava_eval import cli


def main() -> int:
    """Runs the command line of this process."""
    logging.basicConfig(format="llava-eval: %(levelname)s: %(message)s")
    if isinstance(sys.stdout, TextIOWrapper):
        # As on stderr: a name or an answer that cannot be encoded is shown, it ends no command.
        sys.stdout.reconfigure(errors="backslashreplace")
    return cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
