"""`python -m llava_core.train`: trains a model by a recipe, and checks data before that.

    train pretrain [--recipe NAME|FILE] [key=value …]    the projector, on captions
    train finetune [--recipe NAME|FILE] [key=value …]    language model and projector
    train data-check FILE … [--image-folder DIR]         missing pictures, empty answers …

The same command started again goes on from the last checkpoint, and does nothing where all is done.
Several processes: start it with torchrun, `accelerate launch` or `deepspeed`.
"""

import logging
import sys
from argparse import SUPPRESS, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence

from llava_core.command import given_path, run_command
from llava_core.threads import limit_threads
from llava_core.train.launch import count_on_this_machine, is_first_process
from llava_core.train.recipe import STAGES, load_recipe, parse_overrides, recipe_names

_PROGRAM = "llava_core.train"
_DEFAULT = "v1_5_7b"
_FOUND_FAULTS = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line.

    Args:
        arguments: what follows the program's name; None: those of this process.

    Returns:
        The exit code: 0 done, 1 faults in the data, 2 wrong usage or input, 130 interrupted.
    """
    parsed = parse(sys.argv[1:] if arguments is None else arguments)
    work = _check if parsed.command == "data-check" else _train
    return run_command(
        _PROGRAM,
        lambda: work(parsed),
        debug=parsed.debug,
        interrupted="interrupted; the same command goes on from here",
    )


def parse(arguments: Sequence[str]) -> Namespace:
    """Reads flags and settings in any order; leaves the process with code 2 where flags are wrong.

    argparse alone takes settings in one place only.
    """
    parser = _parser()
    parsed, rest = parser.parse_known_args(arguments)
    if wrong := [word for word in rest if word.startswith("-") or parsed.command not in STAGES]:
        parser.error(f"unrecognized arguments: {' '.join(wrong)}")
    if rest:
        parsed.settings += rest
    return parsed


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog=f"python -m {_PROGRAM}",
        description=__doc__,
        formatter_class=RawDescriptionHelpFormatter,
    )
    # deepspeed gives it to each process; the environment says the same.
    parser.add_argument("--local_rank", help=SUPPRESS)
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", required=True)
    for stage in STAGES:
        add = commands.add_parser(stage, help=f"runs the stage {stage} of a recipe").add_argument
        known = ", ".join(recipe_names())
        add(
            "--recipe",
            default=_DEFAULT,
            metavar="NAME|FILE",
            help=f"{known}, or a .yaml file (default: {_DEFAULT})",
        )
        add("--show", action="store_true", help="print the resolved recipe and stop")
        add("--debug", action="store_true", help="show where an error arose")
        add("settings", nargs="*", metavar="key=value", help="settings that win over the recipe's")
    add = commands.add_parser("data-check", help="looks for faults in data").add_argument
    add(
        "files",
        nargs="+",
        type=given_path,
        metavar="FILE",
        help="conversations, JSON or JSON lines",
    )
    add(
        "--image-folder",
        type=given_path,
        metavar="DIR",
        help="default: the folder of the first file",
    )
    add("--template", default="v1", metavar="NAME", help="prompt template (default: v1)")
    add("--debug", action="store_true", help="show where an error arose")
    return parser


def _train(arguments: Namespace) -> int:
    recipe = load_recipe(arguments.command, arguments.recipe, parse_overrides(arguments.settings))
    if is_first_process():
        sys.stdout.write(recipe.to_yaml())
        sys.stdout.flush()
    if arguments.show:
        return 0
    from llava_core.train.run import is_done, run_recipe

    told = "done already"
    if not is_done(recipe):
        limit_threads(count_on_this_machine())
        run_recipe(recipe)
        told = "written"
    if is_first_process():
        sys.stdout.write(f"{told}: {recipe.output}\n")
    return 0


def _check(arguments: Namespace) -> int:
    from llava_core.data.check import check_files
    from llava_core.templates import get_template

    report = check_files(
        arguments.files,
        image_folder=arguments.image_folder or arguments.files[0].parent,
        template=get_template(arguments.template),
    )
    for fault in report.faults:
        sys.stdout.write(f"{fault}\n")
    for name in report.stray:
        sys.stdout.write(f"sample {name}: has no picture, its <image> is read as text\n")
    sys.stdout.write(
        f"{report.num_records} samples, {report.num_with_picture} with pictures: "
        f"{len(report.faults)} faults, {len(report.stray)} stray <image> marks\n"
    )
    return _FOUND_FAULTS if report.faults else 0


if __name__ == "__main__":
    logging.basicConfig(format=f"{_PROGRAM}: %(levelname)s: %(message)s")
    # Tells of a kernel for CPUs that it tries to fetch whether or not anything is quantized.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    sys.exit(main())
