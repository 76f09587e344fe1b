"""What the page does between a visitor and the servers: moderates, answers and logs.

Knows nothing of how the page looks. One or more models are asked at a time.
"""

import asyncio
import logging
import time
from base64 import b64encode
from collections.abc import AsyncGenerator, Mapping, Sequence
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
            talks: one for each model, with the same question.
        """
        latest = list(talks)
        try:
            pngs = await self._admit(talks, wish)
        except (DataError, NoAnswer) as error:
            latest = [talk.failed(str(error)) for talk in talks]
            for talk in latest:
                self._note(talk, wish, pngs={}, start=time.time())
            yield tuple(latest)
            return
        tasks = [
            asyncio.create_task(self._follow(latest, place, wish, pngs))
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
        self._log.append({"type": kind, **about, "images": _images(talks), "ip": visitor})

    async def _admit(self, talks: Sequence[Talk], wish: Wish) -> dict[Path, bytes]:
        """The pictures of the conversations, as they are sent.

        Raises:
            DataError: the question is refused, or a picture cannot be used.
            NoAnswer: nobody says whether it may be asked.
        """
        if self._moderator is not None:
            flags = await self._moderator.flags(talks[0].turns[-1].question)
            if flags:
                raise DataError(
                    "YOUR INPUT VIOLATES OUR CONTENT MODERATION GUIDELINES. PLEASE TRY AGAIN. "
                    f"({', '.join(flags)})"
                )
        pictures = dict.fromkeys(picture for talk in talks for picture in talk.pictures)
        return {
            picture: await asyncio.to_thread(self._prepare, picture, wish.mode)
            for picture in pictures
        }

    def _prepare(self, picture: Path, mode: str) -> bytes:
        return as_png(prepare(open_upload(picture, self._policy), mode))

    async def _follow(
        self, talks: list[Talk], place: int, wish: Wish, pngs: Mapping[Path, bytes]
    ) -> None:
        """Puts one talk into its place again and again, until it is answered."""
        start, talk = time.time(), talks[place]
        names = {picture: picture_hash(pngs[picture]) for picture in talk.pictures}
        talks[place] = replace(talk, sent=names)
        urls = {picture: _data_url(png) for picture, png in pngs.items()}
        pieces = self._answerer.ask(talk.model, talk.messages(urls), wish.sampling)
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    talks[place] = talks[place].grown(piece.text, piece.finish)
        except NoAnswer as error:
            talks[place] = talks[place].failed(str(error))
        finally:
            self._note(talks[place].left(), wish, pngs=pngs, start=start)

    def _note(self, talk: Talk, wish: Wish, *, pngs: Mapping[Path, bytes], start: float) -> None:
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
            "images": _images([talk]),
            "ip": wish.visitor,
        }
        try:
            for png in pngs.values():
                self._log.keep(png)
            self._log.append(record)
        except DataError as error:
            # A full disk is the operator's trouble; the visitor has an answer.
            _logger.error("%s", error)


def _images(talks: Sequence[Talk]) -> list[str]:
    """Each once, in the order in which they were shown."""
    return list(dict.fromkeys(name for talk in talks for name in talk.sent.values()))


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{b64encode(png).decode()}"
