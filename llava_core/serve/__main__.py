"""`python -m llava_core.serve`: talks to a checkpoint, or lets others do so.

    serve chat --model M [--image I]     in this terminal
    serve worker --model M               OpenAI's API in front of one model
    serve worker --upstream URL          ... in front of another server that speaks it
    serve controller                     ... in front of any number of workers
    serve web                            a page in front of any of these

What each needs is imported when it is called: `--help` imports no torch.
"""

import logging
import math
import os
import signal
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

from llava_core.command import given_path, run_command
from llava_core.errors import ConfigError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from llava_core.predict import Llava
    from llava_core.serve.access import Access
    from llava_core.serve.roster import Status

_PROGRAM = "llava_core.serve"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_EVERYWHERE = ("0.0.0.0", "::")
# Flags that say something beside --upstream.
_OF_UPSTREAM = (
    "upstream", "upstream_key_env", "host", "port", "root_path", "api_key_env", "rate_limit",
    "controller_address", "worker_address", "debug",
)  # fmt: skip


class _Command(NamedTuple):
    help: str
    add_arguments: Callable[[ArgumentParser], None]
    execute: Callable[[Namespace], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line.

    Args:
        arguments: what follows the program's name; None: those of this process.

    Returns:
        The exit code: 0 done, 2 wrong usage or input, 130 interrupted.
    """
    parsed = parse(sys.argv[1:] if arguments is None else arguments)
    level = logging.INFO if parsed.command != "chat" else logging.WARNING
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", level=level)
    # One line for each request that it sends is too many.
    for name in ("httpx", "httpx2"):
        logging.getLogger(name).setLevel(logging.WARNING)

    def execute() -> int:
        try:
            _COMMANDS[parsed.command].execute(parsed)
        except ModuleNotFoundError as error:
            extra = "web" if error.name == "gradio" else "serve"
            install = f"pip install 'llava-eval[{extra}]'"
            raise ConfigError(f"{error.name} is not installed: {install}") from error
        return 0

    return run_command(_PROGRAM, execute, debug=parsed.debug)


def parse(arguments: Sequence[str]) -> Namespace:
    """Reads the flags; leaves the process with code 2 where they are wrong."""
    parser = ArgumentParser(prog=f"python -m {_PROGRAM}", description="Talks to a checkpoint.")
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", required=True)
    for name, command in _COMMANDS.items():
        subparser = commands.add_parser(name, help=command.help, description=command.help)
        command.add_arguments(subparser)
        subparser.add_argument("--debug", action="store_true", help="show where an error arose")
    return parser.parse_args(arguments)


def _add_model(parser: ArgumentParser, *, required: bool) -> None:
    add = parser.add_argument
    add("--model", "--model-path", required=required, metavar="M", help="folder, Hub id or tiny")
    add("--model-base", metavar="M", help="what a LoRA or projector-only folder was trained on")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    add("--dtype", default="auto", help="auto, float32, bfloat16 or float16 (default: auto)")
    add("--quantize", choices=("4bit", "8bit"), help="keep the language model small")
    add("--load-4bit", dest="quantize", action="store_const", const="4bit", help="as --quantize")
    add("--load-8bit", dest="quantize", action="store_const", const="8bit", help="as --quantize")
    add("--device-map", choices=("auto", "offload"), help="spread over all GPUs, or further")
    add("--conversation", "--conv-mode", metavar="NAME", help="template, if not what fits")


def _load(arguments: Namespace) -> "Llava":
    from llava_core.predict import load
    from llava_core.threads import limit_threads

    limit_threads()
    return load(
        arguments.model,
        base=arguments.model_base,
        device=arguments.device,
        dtype=arguments.dtype,
        quantize=arguments.quantize,
        device_map=arguments.device_map,
        conversation=arguments.conversation,
    )


def _add_server(parser: ArgumentParser, *, port: int) -> None:
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen at (default: this machine only)")
    add("--port", type=port_number, default=port, help=f"(default: {port})")
    add("--root-path", default="", metavar="PATH", help="path in front of all, behind a proxy")
    keys = "variable with the keys that open, a comma between; needed beside another --host"
    add("--api-key-env", metavar="NAME", help=keys)
    add("--rate-limit", type=positive, metavar="N", help="requests a minute for each key")


def _access(arguments: Namespace) -> "Access":
    from llava_core.serve.access import Access

    keys = _keys(arguments.api_key_env)
    if not keys and arguments.host not in _LOOPBACK:
        raise ConfigError(
            f"--host {arguments.host} lets others ask; name a variable that holds keys with "
            "--api-key-env"
        )
    return Access(keys=keys, requests_per_minute=arguments.rate_limit)


def _keys(variable: str | None) -> list[str]:
    if variable is None:
        return []
    keys = [key.strip() for key in os.environ.get(variable, "").split(",") if key.strip()]
    if not keys:
        raise ConfigError(f"the variable {variable}, which holds keys, is empty or not set")
    return keys


def _key(variable: str | None) -> str | None:
    """The first key of a variable, which is what a client of other servers shows."""
    return next(iter(_keys(variable)), None)


def _add_chat(parser: ArgumentParser) -> None:
    _add_model(parser, required=True)
    add = parser.add_argument
    images = "file or http address to begin with; may be repeated"
    add("--image", "--image-file", action="append", default=[], metavar="PATH|URL", help=images)
    add("--temperature", type=temperature, help="0 is greedy (default: 0.2; with beams 0)")
    beams = "answers followed at a time; the likeliest is shown when it is whole (default: 1)"
    add("--num-beams", type=positive, default=1, metavar="K", help=beams)
    add("--max-new-tokens", type=positive, default=512, help="of an answer (default: 512)")


def _chat(arguments: Namespace) -> None:
    from llava_core.serve.chat import Chat, ChatSettings, open_source

    settings = ChatSettings(
        temperature=_temperature(arguments),
        num_beams=arguments.num_beams,
        max_new_tokens=arguments.max_new_tokens,
    )
    pictures = {source: open_source(source) for source in arguments.image}
    chat = Chat(_load(arguments), settings, read=input, write=_write)
    for source in arguments.image:
        chat.show(pictures[source], name=source)
    chat.run()


def _temperature(arguments: Namespace) -> float:
    given: float | None = arguments.temperature
    if arguments.num_beams == 1:
        return 0.2 if given is None else given
    if given:
        raise ConfigError(
            f"--num-beams {arguments.num_beams}: beams are not sampled; drop --temperature "
            f"{given}, or this flag"
        )
    return 0.0


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _add_worker(parser: ArgumentParser) -> None:
    _add_model(parser, required=False)
    _add_server(parser, port=21002)
    add = parser.add_argument
    add("--model-name", metavar="NAME", help="what clients ask for (default: the folder's name)")
    add("--max-new-tokens", type=positive, default=1024, help="of an answer (default: 1024)")
    add("--max-running", type=positive, default=32, help="requests decoded at once (default: 32)")
    add("--max-waiting", type=positive, default=64, help="more get status 429 (default: 64)")
    add("--no-picture-urls", action="store_true", help="read pictures only from requests")
    host = "host whose pictures may be read though its address is private; may be repeated"
    add("--trust-host", action="append", default=[], metavar="NAME", help=host)
    add("--log-contents", action="store_true", help="log questions and answers")
    add("--controller-address", metavar="URL", help="controller to announce this worker to")
    add(
        "--worker-address",
        metavar="URL",
        help="where the controller reaches this worker (default: http://HOST:PORT)",
    )
    add(
        "--upstream",
        metavar="URL",
        help="instead of --model: a server that speaks OpenAI's API (vLLM, SGLang, ...)",
    )
    add("--upstream-key-env", metavar="NAME", help="variable with the key that opens it")


def _worker(arguments: Namespace) -> None:
    if (arguments.model is None) == (arguments.upstream is None):
        raise ConfigError("a worker needs either --model or --upstream")
    if arguments.upstream is None and arguments.upstream_key_env is not None:
        raise ConfigError("--upstream-key-env opens what --upstream names; drop it")
    from llava_core.serve.listen import serve, taken

    with taken(arguments.host, arguments.port) as place, ExitStack() as ending:
        make = _model_app if arguments.upstream is None else _upstream_app
        serve(make(arguments, ending), place, root_path=arguments.root_path)


def _model_app(arguments: Namespace, ending: ExitStack) -> "ASGIApp":
    """A worker; its thread ends with the stack."""
    import warnings

    from PIL.Image import DecompressionBombWarning

    from llava_core.serve.batcher import Batcher
    from llava_core.serve.original import add_worker_routes, worker_status
    from llava_core.serve.pictures import PicturePolicy
    from llava_core.serve.worker import Worker, WorkerSettings, make_app

    access = _access(arguments)
    announced = _announced(arguments)
    # The policy of pictures has a lower limit, which is an error.
    warnings.simplefilter("ignore", DecompressionBombWarning)
    llava = _load(arguments)
    batcher = Batcher(
        llava,
        max_waiting=arguments.max_waiting,
        max_running=arguments.max_running,
        max_positions=llava.config.num_positions,
    )
    ending.callback(batcher.close)
    settings = WorkerSettings(
        model_id=arguments.model_name or llava.identity.model_id,
        max_new_tokens=arguments.max_new_tokens,
        log_contents=arguments.log_contents,
        start_end=llava.config.use_im_start_end,
        pictures=PicturePolicy(
            fetch=not arguments.no_picture_urls,
            trusted_hosts=frozenset(name.lower() for name in arguments.trust_host),
        ),
    )
    worker = Worker(settings, batcher, readable=llava.readable)
    return make_app(
        worker,
        access=access,
        lifespan=lambda _: announced(lambda: worker_status(worker)),
        extend=lambda app: add_worker_routes(app, worker, access=access),
    )


def _upstream_app(arguments: Namespace, _: ExitStack) -> "ASGIApp":
    """A controller with one worker, the other server, that is itself a worker."""
    usual = vars(parse(["worker"]))
    useless = [
        "--" + name.replace("_", "-")
        for name, value in vars(arguments).items()
        if name not in _OF_UPSTREAM and value != usual[name]
    ]
    if useless:
        raise ConfigError(
            f"of --upstream's model its own server decides; drop {', '.join(useless)}"
        )
    from llava_core.serve.controller import find_models, make_controller
    from llava_core.serve.roster import Roster

    key = _key(arguments.upstream_key_env)
    upstream = arguments.upstream.rstrip("/").removesuffix("/v1")
    announced = _announced(arguments)
    roster = Roster()
    models = find_models(upstream, key=key)
    roster.register(upstream, models, has_heart_beat=False, is_permanent=True)
    return make_controller(
        roster,
        access=_access(arguments),
        key=key,
        announced=lambda: announced(lambda: roster.total),
    )


def _announced(
    arguments: Namespace,
) -> "Callable[[Callable[[], Status]], AbstractAsyncContextManager[None]]":
    """What announces a worker, given how it is, to its controller, if it has one.

    All parts share one key.
    """
    if arguments.controller_address is None:
        return lambda _: nullcontext()
    from llava_core.serve.heartbeat import beating

    if arguments.worker_address is None and arguments.host in _EVERYWHERE:
        raise ConfigError(
            f"--host {arguments.host} is no address that a controller can reach; give "
            "--worker-address"
        )
    host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
    address = arguments.worker_address or f"http://{host}:{arguments.port}"
    return lambda status: beating(
        arguments.controller_address.rstrip("/"),
        address.rstrip("/"),
        status,
        key=_key(arguments.api_key_env),
    )


def _add_controller(parser: ArgumentParser) -> None:
    _add_server(parser, port=21001)
    parser.add_argument(
        "--dispatch-method",
        choices=("shortest_queue", "lottery"),
        default="shortest_queue",
        help="which worker gets a request: that which waits least, or by drawn lot",
    )


def _controller(arguments: Namespace) -> None:
    from llava_core.serve.controller import make_controller
    from llava_core.serve.listen import serve, taken
    from llava_core.serve.roster import Roster

    app = make_controller(
        Roster(arguments.dispatch_method),
        access=_access(arguments),
        key=_key(arguments.api_key_env),
    )
    with taken(arguments.host, arguments.port) as place:
        serve(app, place, root_path=arguments.root_path)


def _add_web(parser: ArgumentParser) -> None:
    add = parser.add_argument
    address = parser.add_mutually_exclusive_group()
    controller = "controller or worker (default: http://127.0.0.1:21001)"
    address.add_argument(
        "--controller-url", default="http://127.0.0.1:21001", metavar="URL", help=controller
    )
    base = "instead: any server with OpenAI's API, up to its /v1"
    address.add_argument("--base-url", metavar="URL", help=base)
    add("--api-key-env", metavar="NAME", help="variable with the key that opens it")
    add("--host", default="127.0.0.1", help="address to listen at (default: this machine only)")
    add("--port", type=port_number, default=7860, help="(default: 7860)")
    add("--root-path", default="", metavar="PATH", help="path in front of all, behind a proxy")
    add("--share", action="store_true", help="make it public at an address of gradio's servers")
    logins = "variable with NAME:PASSWORD, a comma between; needed beside another --host or --share"
    add("--login-env", metavar="NAME", help=logins)
    listed = "list models at the start, or whenever the page is loaded (default: once)"
    add("--model-list-mode", choices=("once", "reload"), default="once", help=listed)
    add("--concurrency", type=positive, default=16, help="answers at a time (default: 16)")
    log = parser.add_mutually_exclusive_group()
    folder = "where questions, answers, pictures and votes are kept (default: runs/web)"
    log.add_argument(
        "--log-dir", type=given_path, default=Path("runs/web"), metavar="F", help=folder
    )
    log.add_argument("--no-log", action="store_true", help="keep nothing, and have no votes")
    add("--moderate", action="store_true", help="ask first whether a question may be answered")
    moderation = "server with OpenAI's moderations, up to its /v1 (default: OpenAI's own)"
    add("--moderation-url", default="https://api.openai.com/v1", metavar="URL", help=moderation)
    key = "variable with its key (default: OPENAI_API_KEY)"
    add("--moderation-key-env", default="OPENAI_API_KEY", metavar="NAME", help=key)


def _web(arguments: Namespace) -> None:
    logins = _logins(arguments)
    with TemporaryDirectory(prefix="llava-web-") as folder:
        # Uploads go where gradio puts them otherwise: to one folder for all users of a machine.
        os.environ["GRADIO_TEMP_DIR"] = folder
        from llava_core.serve.web import Listening, build, launch, open_page
        from llava_core.serve.web_client import Address

        controller = arguments.controller_url.rstrip("/").removesuffix("/v1")
        moderation = None
        if arguments.moderate:
            (key, *_) = _keys(arguments.moderation_key_env)
            moderation = Address(base_url=arguments.moderation_url, key=key)
        page = open_page(
            Address(
                base_url=arguments.base_url or f"{controller}/v1",
                key=_key(arguments.api_key_env),
            ),
            folder=Path(folder),
            log_folder=None if arguments.no_log else arguments.log_dir,
            moderation=moderation,
            is_listed_once=arguments.model_list_mode == "once",
        )
        listening = Listening(
            host=arguments.host,
            port=arguments.port,
            root_path=arguments.root_path,
            share=arguments.share,
            logins=logins,
            concurrency=arguments.concurrency,
        )
        # What a service manager sends ends the page as Ctrl-C does, uploads included.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        # gradio heeds it when it waits, which is a little after the page's first answer.
        with suppress(KeyboardInterrupt):
            launch(build(page), listening)


def _logins(arguments: Namespace) -> list[tuple[str, str]]:
    """Names and passwords of visitors."""
    pairs = []
    for text in _keys(arguments.login_env):
        name, _, password = text.partition(":")
        if not (name and password):
            raise ConfigError(
                f"the variable {arguments.login_env} holds {name!r} without a password, expected "
                "NAME:PASSWORD"
            )
        pairs.append((name, password))
    if not pairs and (arguments.share or arguments.host not in _LOOPBACK):
        raise ConfigError(
            "--share and another --host let others in; name a variable that holds their "
            "NAME:PASSWORD with --login-env"
        )
    return pairs


def positive(text: str) -> int:
    """A whole number of at least 1.

    Raises:
        ArgumentTypeError: anything else.
    """
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def port_number(text: str) -> int:
    """A whole number from 1 to 65535.

    Raises:
        ArgumentTypeError: anything else.
    """
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) < 2**16:
        raise ArgumentTypeError(f"expected a whole number from 1 to 65535, got {text!r}")
    return int(text)


def temperature(text: str) -> float:
    """A number of at least 0.

    Raises:
        ArgumentTypeError: anything else.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ArgumentTypeError(f"expected a number of at least 0, got {text!r}")
    return value


_COMMANDS = {
    "chat": _Command("Talks in this terminal.", _add_chat, _chat),
    "worker": _Command("Serves one model over OpenAI's API.", _add_worker, _worker),
    "controller": _Command("Serves all workers at one address.", _add_controller, _controller),
    "web": _Command("Serves a page to chat with models that are served.", _add_web, _web),
}

if __name__ == "__main__":
    sys.exit(main())
