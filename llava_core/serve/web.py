"""The page: a chat about pictures, with one model or with two beside each other.

All that a visitor's browser loads comes from here: no fonts, scripts or counters from elsewhere,
and a policy that keeps pictures which an answer names from being fetched.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llava_core.errors import ConfigError
from llava_core.serve.answering import Desk
from llava_core.serve.conversation_log import ConversationLog
from llava_core.serve.example_pictures import write_examples
from llava_core.serve.web_client import Address, Answerer, Moderator, NoAnswer, list_models
from llava_core.serve.web_tab import Controls, Page, Tab, usual

_logger = logging.getLogger(__name__)

_FONT, _MONO = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")
_CSS = """
.note {opacity: .75; font-size: .9em}
footer {display: none !important}
.user-row div:not(:fullscreen) > .image-container img {max-height: 8em; width: auto}
/* Gradio's button to publish a picture elsewhere, which has no switch. */
.user-row:has(img) + .message-buttons {display: none}
"""
_POLICY = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'"
_MAX_FILE = "20mb"
_KEPT = "Questions, pictures, answers, votes and addresses of visitors are kept on this server."


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Where the page is, and for whom."""

    host: str = "127.0.0.1"
    port: int = 7860
    root_path: str = ""
    share: bool = False
    """Whether gradio's servers make it public, at an address that nobody can guess."""
    logins: Sequence[tuple[str, str]] = ()
    """Names and passwords; none: everybody may see it."""
    concurrency: int = 16
    """Answers at a time; more wait."""


def open_page(
    address: Address,
    *,
    folder: Path,
    log_folder: Path | None,
    moderation: Address | None,
    is_listed_once: bool,
) -> Page:
    """Joins the parts of a page.

    Args:
        address: of the server whose models answer.
        folder: for the pictures of examples.
        log_folder: None: nothing is kept.
        is_listed_once: whether a model that comes later stays unknown.

    Raises:
        ConfigError: the server cannot be asked for its models, or has none; or the log's folder
            cannot be made.
    """
    models = []
    if is_listed_once:
        try:
            models = list_models(address)
        except NoAnswer as error:
            raise ConfigError(f"no models: {error}") from error
        if not models:
            raise ConfigError(
                f"{address.base_url} has no models yet; start a worker, or use --model-list-mode "
                "reload"
            )
    log = None if log_folder is None else _open_log(log_folder)
    moderator = None if moderation is None else Moderator(moderation)
    return Page(
        desk=Desk(Answerer(address), log=log, moderator=moderator),
        list_models=models.copy if is_listed_once else partial(list_models, address),
        models=models,
        examples=write_examples(folder),
        is_logged=log is not None,
    )


def _open_log(folder: Path) -> ConversationLog:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--log-dir {folder} cannot be made: {error.strerror}") from error
    return ConversationLog(folder)


def build(page: Page) -> gr.Blocks:
    """Lays out the page and joins its parts to what they do."""
    with gr.Blocks(title="LLaVA", analytics_enabled=False, fill_width=True) as blocks:
        notice = gr.Markdown(visible=False)
        with gr.Row():
            with gr.Column(scale=3, min_width=280) as left:
                controls = Controls()
            with gr.Column(scale=8, min_width=320), gr.Tabs():
                with gr.Tab("Chat"):
                    single = Tab(page, controls)
                with gr.Tab("Side by side"):
                    pair = Tab(page, controls, letters="AB")
        with left:
            gr.Examples(
                [[str(path), question, question] for path, question in page.examples],
                [controls.picture, single.text, pair.text],
                visible_columns=[0, 1],
                cache_examples=False,
                api_visibility="private",
            )
            gr.Markdown(_KEPT if page.is_logged else "Nothing is kept.", elem_classes="note")

        def load(request: gr.Request) -> list[Any]:
            return _choices(page, request.query_params.get("model"))

        models = [*single.models, *pair.models]
        blocks.load(load, None, [notice, *models], queue=False, api_visibility="private")
    return blocks


def launch(blocks: gr.Blocks, at: Listening) -> None:
    """Serves a page until Ctrl-C.

    Raises:
        ConfigError: the port is taken, or gradio's servers give no address.
    """
    blocks.queue(default_concurrency_limit=at.concurrency)
    try:
        _, local, shared = blocks.launch(
            server_name=at.host,
            server_port=at.port,
            root_path=at.root_path,
            share=at.share,
            auth=list(at.logins) or None,
            prevent_thread_lock=True,
            theme=gr.themes.Default(font=_FONT, font_mono=_MONO),
            css=_CSS,
            app_kwargs={"middleware": [Middleware(_ContentPolicy)]},
            max_file_size=_MAX_FILE,
            show_error=True,
            # What gradio does on its own is left out.
            quiet=True,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
        )
    except OSError as error:
        raise ConfigError(f"cannot listen at {at.host}, port {at.port}: {error}") from error
    if at.share and not shared:
        raise ConfigError("gradio's servers give no address; leave out --share")
    _logger.info("the page is at %s", shared or local)
    blocks.block_thread()


def _choices(page: Page, wanted: str | None) -> list[Any]:
    """The notice, and what each list of models offers."""
    names, told = [], "the server has none yet; load this page again later"
    try:
        names = page.list_models()
    except NoAnswer as error:
        told = str(error)
    first, second = usual(names, wanted=wanted)
    return [
        gr.update(value=f"**No models:** {told}", visible=not names),
        *(gr.update(choices=names, value=name) for name in (first, first, second)),
    ]


class _ContentPolicy:
    """Tells browsers to load nothing from elsewhere."""

    def __init__(self, app: ASGIApp) -> None:
        """Stands in front of an app."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Adds the header to what is answered."""

        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Content-Security-Policy"] = _POLICY
            await send(message)

        await self._app(scope, receive, with_policy)
