"""The flags that say what answers, and the backend they name.

That is a model in this process, the same in several processes, or one behind an endpoint.
"""

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial

from llava_eval.backends.base import Backend
from llava_eval.backends.launched import (
    Launch,
    LaunchedBackend,
    assist,
    connected,
    find_launch,
)
from llava_eval.backends.local import (
    Decoding,
    LocalBackend,
    load_model,
    open_worker,
    threads_per_process,
)
from llava_eval.backends.openai import OpenAIBackend
from llava_eval.backends.processes import ProcessCrew
from llava_eval.backends.team import Crew, TeamBackend
from llava_eval.backends.together import LeadingBackend, follow, joined_up
from llava_eval.backends.worker import Factory
from llava_eval.commands.arguments import (
    KEY_FLAG,
    KEY_NAME,
    OPENAI_HOST,
    base_url,
    not_empty,
    positive,
    read_key,
    share_of_probability,
    temperature,
    whole_number,
)
from llava_eval.errors import FlagsError
from llava_eval.records import Prompt

# Flags that decide how the model is loaded, by the names of `llava_core.load`; with defaults.
_MODEL_SETTINGS = {
    "base": None,
    "device": "auto",
    "device_map": None,
    "dtype": "auto",
    "quantize": None,
    "attention": "auto",
    "compiled": False,
    "conversation": None,
    "feature_cache": None,
    "feature_cache_gb": None,
}
SETTINGS = (
    "model",
    "batch_tokens",
    "num_beams",
    "temperature",
    "top_p",
    "seed",
    "processes",
    "ray",
    "backend",
    "base_url",
    "concurrency",
    *_MODEL_SETTINGS,
)
"""Flags that go into the manifest as they were given."""

# Flags without meaning for an endpoint.
_LOCAL = {
    **_MODEL_SETTINGS,
    "batch_tokens": None,
    "num_beams": 1,
    "temperature": 0.0,
    "top_p": None,
    "seed": 0,
    "processes": 1,
    "ray": None,
}
_BACKENDS = ("local", "openai")
# The device map of processes that hold one model together.
_TENSOR = "tensor"


def add_backend(parser: ArgumentParser) -> None:
    """Declares the flags."""
    add = parser.add_argument
    add("--model", type=not_empty, required=True, metavar="PATH|ID|tiny", help="the checkpoint")
    add(
        "--model-base",
        dest="base",
        type=not_empty,
        metavar="PATH|ID",
        help="what a LoRA or projector was trained on",
    )
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    add(
        "--device-map",
        metavar="auto|offload|tensor",
        help="spread the model over all GPUs; offload: also over memory and disk, slowly; tensor: "
        "cut every layer up among the processes that torchrun started",
    )
    add("--dtype", default="auto", help="auto, float32, bfloat16 or float16 (default: auto)")
    add("--quantize", metavar="4bit|8bit", help="keep the language model in fewer bits")
    add("--attention", default="auto", help="auto, sdpa, flash_attention_2 or eager")
    add(
        "--compile",
        dest="compiled",
        action="store_true",
        help="compile norms and MLPs: faster on a GPU after some seconds",
    )
    add("--conversation", metavar="NAME", help="prompt template (default: the checkpoint's)")
    add(
        "--feature-cache",
        type=_absolute,
        metavar="DIR",
        help="keep there what the vision tower makes of pictures, for all checkpoints with this "
        "tower",
    )
    add(
        "--feature-cache-gb",
        type=positive,
        metavar="N",
        help="most that it may take, in 10^9 bytes (default: no bound)",
    )
    add("--batch-tokens", type=positive, metavar="N", help="most tokens computed together")
    _add_decoding(parser)
    add(
        "--processes",
        type=positive,
        default=1,
        metavar="N",
        help="share the work among N processes, each with the model on a GPU of its own",
    )
    add(
        "--ray",
        metavar="auto|ADDRESS",
        help="share the work among the GPUs of a Ray cluster, or N of them with --processes N",
    )
    add("--backend", choices=_BACKENDS, default="local", help="openai: ask an endpoint")
    add(
        "--base-url", type=base_url, metavar="URL", help="the endpoint, up to /v1 (vLLM, SGLang, …)"
    )
    add(
        KEY_FLAG,
        metavar="NAME",
        help="environment variable that holds the endpoint's key "
        f"(default: none, and {KEY_NAME} for {OPENAI_HOST})",
    )
    add(
        "--concurrency",
        type=positive,
        default=16,
        metavar="N",
        help="most requests at a time that an endpoint is asked (default: 16)",
    )


def _add_decoding(parser: ArgumentParser) -> None:
    add = parser.add_argument
    beams = "answers followed at a time; the likeliest is taken (default: 1, as published)"
    add("--num-beams", type=positive, default=1, metavar="K", help=beams)
    sampled = "draw tokens, as sharply as this is small (default: 0, the likeliest, as published)"
    add("--temperature", type=temperature, default=0.0, metavar="T", help=sampled)
    share = "draw from this share of the probability (default: 1)"
    add("--top-p", type=share_of_probability, metavar="P", help=share)
    draws = "of what is drawn: another gives other answers (default: 0)"
    add("--seed", type=whole_number, default=0, metavar="N", help=draws)


def _absolute(text: str) -> str:
    return os.path.abspath(not_empty(text))


@contextmanager
def open_backend(arguments: Namespace) -> Iterator[Backend]:
    """Loads what the flags name.

    Raises:
        FlagsError: flags that exclude each other.
        ModelError: the model cannot be loaded.
    """
    launch = _find_launch(arguments)
    if arguments.backend == "openai":
        with closing(_endpoint(arguments)) as backend:
            yield backend
        return
    if arguments.base_url is not None:
        raise FlagsError("--base-url is for --backend openai; give both or neither")
    if arguments.feature_cache_gb is not None and arguments.feature_cache is None:
        raise FlagsError("--feature-cache-gb bounds --feature-cache DIR; give both or neither")
    if arguments.ray is not None:
        with closing(_ray_crew(arguments)) as crew:
            yield TeamBackend(crew)
    elif launch is not None and arguments.device_map == _TENSOR:
        with connected(launch.rank) as store, joined_up(store, launch):
            yield LeadingBackend(_own(arguments), store, size=launch.size)
    elif launch is not None:
        with connected(launch.rank) as store:
            own = _factory(arguments)(launch.local_rank)
            yield LaunchedBackend(own, store, size=launch.size)
    elif arguments.processes > 1:
        num_threads = threads_per_process(arguments.processes)
        processes = ProcessCrew(
            _factory(arguments), size=arguments.processes, num_threads=num_threads
        )
        with closing(processes):
            yield TeamBackend(processes)
    else:
        yield _own(arguments, is_alone=True)


def assist_rank_0(arguments: Namespace, tasks: Sequence[Sequence[Prompt]]) -> bool:
    """Works for rank 0 if this process was launched as another rank; says whether it was.

    Args:
        tasks: prompts of each task.

    Raises:
        EvalError: as for rank 0.
    """
    launch = _find_launch(arguments)
    if launch is None or launch.rank == 0:
        return False
    with connected(launch.rank) as store:
        if arguments.device_map == _TENSOR:
            with joined_up(store, launch):
                follow(tasks, _own(arguments), store, rank=launch.rank)
        else:
            assist(tasks, _factory(arguments)(launch.local_rank), store, rank=launch.rank)
    return True


def _own(arguments: Namespace, *, is_alone: bool = False) -> LocalBackend:
    """The model, or its part, in this process."""
    settings = {name: getattr(arguments, name) for name in _MODEL_SETTINGS}
    llava = load_model(arguments.model, is_alone=is_alone, **settings)
    decoding = _decoding(arguments)
    return LocalBackend(llava, batch_tokens=arguments.batch_tokens, decoding=decoding)


def _find_launch(arguments: Namespace) -> Launch | None:
    """This process among those that were launched together; None where it is alone.

    Raises:
        FlagsError: flags that name other workers; all but rank 0 would wait for ever.
    """
    launch = find_launch(os.environ)
    others = {
        "--backend openai": arguments.backend == "openai",
        f"--ray {arguments.ray}": arguments.ray is not None,
        f"--processes {arguments.processes}": arguments.processes > 1,
    }
    if launch is not None and any(others.values()):
        flags = " and ".join(flag for flag, given in others.items() if given)
        raise FlagsError(
            f"{flags}: {launch.size} processes were launched already; drop the flag, or the "
            "launcher"
        )
    return launch


def _ray_crew(arguments: Namespace) -> Crew:
    try:
        from llava_eval.backends.ray_crew import RayCrew
    except ModuleNotFoundError as error:
        raise FlagsError(
            f"--ray {arguments.ray} needs the library ray: pip install 'llava-eval[cluster]'"
        ) from error
    size = arguments.processes if arguments.processes > 1 else None
    return RayCrew(_factory(arguments), address=arguments.ray, size=size)


def _factory(arguments: Namespace) -> Factory:
    """Loads the model of one of several processes."""
    if arguments.device_map is not None:
        raise FlagsError(
            f"--device-map {arguments.device_map} is for one process: a model spread over all GPUs "
            "leaves none for another; drop it, or run one process"
        )
    settings = {name: getattr(arguments, name) for name in _MODEL_SETTINGS}
    return partial(
        open_worker,
        model=arguments.model,
        batch_tokens=arguments.batch_tokens,
        decoding=_decoding(arguments),
        **settings,
    )


def _decoding(arguments: Namespace) -> Decoding:
    if arguments.temperature and arguments.num_beams > 1:
        raise FlagsError(
            f"--temperature {arguments.temperature:g}: beams are not sampled; drop it, or "
            f"--num-beams {arguments.num_beams}"
        )
    if arguments.top_p is not None and not arguments.temperature:
        raise FlagsError(
            f"--top-p {arguments.top_p:g}: nothing is sampled; give --temperature too, or drop it"
        )
    return Decoding(
        num_beams=arguments.num_beams,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        seed=arguments.seed,
    )


def _endpoint(arguments: Namespace) -> OpenAIBackend:
    if arguments.base_url is None:
        raise FlagsError("--backend openai needs --base-url, such as http://localhost:8000/v1")
    given = [name for name in _LOCAL if getattr(arguments, name) != _LOCAL[name]]
    if given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise FlagsError(f"{flags}: an endpoint decides that itself; drop it")
    key = read_key(arguments.api_key_env, url=arguments.base_url)
    return OpenAIBackend(
        arguments.model, base_url=arguments.base_url, key=key, concurrency=arguments.concurrency
    )
