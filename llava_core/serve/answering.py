"""What the page does between a visitor and the servers: moderates, answers and logs.

Knows nothing of how the page looks. One or more models are asked at a time, about one picture.
"""

import asyncio
import logging
import time
from base64 import b64encode
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llava_core.errors import DataError
from llava_core.serve.conversation_log import ConversationLog, picture_hash
from llava_core.serve.picture_modes import as_png, open_upload, prepare
from llava_core.serve.pictures import PicturePolicy
from llava_core.serve.talk import Talk
from llava_core.serve.web_client import Answerer, Moderator, NoAnswer, Sampling

# A page that changes with every token costs more than the eye sees.
_REFRESH_S = 0.05
# Whoever writes to nobody notices it only when there is something to write.
_ALIVE_S = 1.0

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a visitor chose beside the question."""

    mode: str
    """One of `picture_modes.MODES`."""
    sampling: Sampling
    visitor: str
    """Address, for the log."""


class Desk:
    """Answers visitors."""

    def __init__(
        self,
        answerer: Answerer,
        *,
        log: ConversationLog | None,
        moderator: Moderator | None = None,
        policy: PicturePolicy | None = None,
    ) -> None:
        """Joins the parts; without a log nothing is kept, without a moderator all may be asked."""
        self._answerer, self._log, self._moderator = answerer, log, moderator
        self._policy = policy or PicturePolicy()

    async def answer(
        self, talks: Sequence[Talk], wish: Wish
    ) -> AsyncGenerator[tuple[Talk, ...], None]:
        """The talks as their last answers grow, all at a time; at least every second.

        What goes wrong becomes part of the talk. Closing it frees the places at the servers.

        Args:
            talks: one for each model, with the same question about the same picture.
        """
        latest = list(talks)
        try:
            png = await self._admit(talks[0], wish)
        except (DataError, NoAnswer) as error:
            latest = [talk.failed(str(error)) for talk in talks]
            for talk in latest:
                self._note(talk, wish, png=None, start=time.time())
            yield tuple(latest)
            return
        tasks = [
            asyncio.create_task(self._follow(latest, place, wish, png))
            for place in range(len(latest))
        ]
        try:
            shown, shown_at, pending = list(talks), time.monotonic(), set(tasks)
            while pending:
                _, pending = await asyncio.wait(pending, timeout=_REFRESH_S)
                if shown != latest or time.monotonic() > shown_at + _ALIVE_S:
                    shown, shown_at = list(latest), time.monotonic()
                    yield tuple(shown)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:
            task.result()

    def vote(self, kind: str, talks: Sequence[Talk], *, visitor: str, hidden: bool = False) -> None:
        """Logs what a visitor thinks of the last answers.

        Args:
            hidden: whether the visitor did not know the models' names.

        Raises:
            DataError: it cannot be written.
        """
        assert self._log is not None, "without a log there is no vote"
        about: dict[str, Any] = {"model": talks[0].model, "state": talks[0].logged()}
        if len(talks) > 1:
            about = {
                "models": [talk.model for talk in talks],
                "states": [talk.logged() for talk in talks],
                "anonymous": hidden,
            }
        self._log.append({"type": kind, **about, "images": _images(talks[0]), "ip": visitor})

    async def _admit(self, talk: Talk, wish: Wish) -> bytes | None:
        """The picture as it is sent.

        Raises:
            DataError: the question is refused, or its picture cannot be used.
            NoAnswer: nobody says whether it may be asked.
        """
        if self._moderator is not None:
            flags = await self._moderator.flags(talk.turns[-1].question)
            if flags:
                raise DataError(
                    "YOUR INPUT VIOLATES OUR CONTENT MODERATION GUIDELINES. PLEASE TRY AGAIN. "
                    f"({', '.join(flags)})"
                )
        if talk.picture is None:
            return None
        return await asyncio.to_thread(self._prepare, talk.picture, wish.mode)

    def _prepare(self, picture: Path, mode: str) -> bytes:
        return as_png(prepare(open_upload(picture, self._policy), mode))

    async def _follow(self, talks: list[Talk], place: int, wish: Wish, png: bytes | None) -> None:
        """Puts one talk into its place again and again, until it is answered."""
        start, url = time.time(), None
        if png is not None:
            talks[place] = replace(talks[place], sent=picture_hash(png))
            url = f"data:image/png;base64,{b64encode(png).decode()}"
        talk = talks[place]
        pieces = self._answerer.ask(talk.model, talk.messages(url), wish.sampling)
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    talks[place] = talks[place].grown(piece.text, piece.finish)
        except NoAnswer as error:
            talks[place] = talks[place].failed(str(error))
        finally:
            self._note(talks[place].left(), wish, png=png, start=start)

    def _note(self, talk: Talk, wish: Wish, *, png: bytes | None, start: float) -> None:
        last = talk.turns[-1]
        _logger.info("%s: %s in %.2f s", talk.model, last.error or last.finish, time.time() - start)
        if self._log is None:
            return
        record = {
            "type": "chat",
            "model": talk.model,
            "start": round(start, 4),
            "finish": round(time.time(), 4),
            "finish_reason": last.finish,
            "error": last.error or None,
            "settings": {"image_process_mode": wish.mode, **asdict(wish.sampling)},
            "state": talk.logged(),
            "images": _images(talk),
            "ip": wish.visitor,
        }
        try:
            if png is not None:
                self._log.keep(png)
            self._log.append(record)
        except DataError as error:
            # A full disk is the operator's trouble; the visitor has an answer.
            _logger.error("%s", error)


def _images(talk: Talk) -> list[str]:
    return [] if talk.sent is None else [talk.sent]
