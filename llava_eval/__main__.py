"""`python -m llava_eval` and the console script `llava-eval`."""

import sys
from io import TextIOWrapper

from llava_eval import cli
from llava_eval.logs import show_warnings


def main() -> int:
    """Runs the command line of this process."""
    show_warnings()
    if isinstance(sys.stdout, TextIOWrapper):
        # As on stderr: a name or an answer that cannot be encoded is shown, it ends no command.
        sys.stdout.reconfigure(errors="backslashreplace")
    return cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
