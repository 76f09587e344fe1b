"""A conversation in the terminal.

The history holds what was said as text, never special tokens: the original decodes them into it,
so that its next prompt has a second beginning and doubled ends. Ctrl-C ends the answer that is
being written; what was written of it stays in the history. With beams it is written when it is
whole: until then another may turn out likelier.
"""

import asyncio
import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

from PIL import Image

from llava_core.conversation import IMAGE_MARK
from llava_core.errors import DataError
from llava_core.generate.request import Request
from llava_core.images import open_image
from llava_core.predict import Llava
from llava_core.serve.pictures import PicturePolicy, open_pictures
from llava_core.serve.schema import DEMO_TOP_K, new_seed
from llava_core.stream import Partial

_HELP = """\
/image PATH   shows a picture (a file or an http address) with the next question; may be repeated
/reset        begins a new conversation, without pictures
/save FILE    writes the conversation as JSON
/exit         ends, as Ctrl-D does; Ctrl-C stops an answer
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatSettings:
    """How answers are written."""

    temperature: float = 0.2
    """0 is greedy."""
    top_k: int | None = DEMO_TOP_K
    top_p: float | None = None
    num_beams: int = 1
    """More are not sampled: the temperature has to be 0."""
    max_new_tokens: int = 512


class Chat:
    """A conversation with a checkpoint."""

    def __init__(
        self,
        llava: Llava,
        settings: ChatSettings,
        *,
        read: Callable[[str], str],
        write: Callable[[str], object],
    ) -> None:
        """Begins with nothing said.

        Args:
            read: asks for a line, given what stands in front of it; EOFError ends.
            write: shows text at once.
        """
        self._llava = llava
        self._settings = settings
        self._read, self._write = read, write
        self._turns: list[dict[str, str]] = []
        self._images: list[Image.Image] = []
        self._names: list[str] = []
        self._num_new = 0
        self._is_stopped = False
        self._num_asked = 0
        # One for all questions: each goes on from what was read for those before.
        self._stream = llava.open_stream(has_left=lambda asked: asked.id != self._num_asked)

    def run(self) -> None:
        """Talks until the end of the input or `/exit`."""
        while True:
            try:
                line = self._read("USER: ").strip()
            except EOFError:
                self._write("\n")
                return
            except KeyboardInterrupt:
                self._write("\n(/exit or Ctrl-D ends)\n")
                continue
            if line == "/exit":
                return
            try:
                self._obey(line)
            except DataError as error:
                self._write(f"error: {error}\n")

    def show(self, picture: Image.Image, *, name: str) -> None:
        """Shows a picture with the next question."""
        self._images.append(picture)
        self._names.append(name)
        self._num_new += 1

    def _obey(self, line: str) -> None:
        command, _, rest = line.partition(" ")
        if command == "/image":
            source = rest.strip()
            self.show(open_source(source), name=source)
            self._write(f"(picture {len(self._images)} goes with the next question)\n")
        elif command == "/reset":
            self._turns, self._images, self._names, self._num_new = [], [], [], 0
        elif command == "/save":
            self._save(rest.strip())
        elif command.startswith("/"):
            self._write(_HELP)
        elif line:
            self._ask(line)

    def _ask(self, text: str) -> None:
        content = f"{IMAGE_MARK}\n" * self._num_new + text
        turns = [*self._turns, {"role": "user", "content": content}]
        answer = self._answer(turns)
        # What was refused above leaves the conversation as it was.
        self._turns = [*turns, {"role": "assistant", "content": answer}]
        self._num_new = 0

    def _answer(self, turns: list[dict[str, str]]) -> str:
        settings = self._settings
        self._num_asked += 1
        request = Request(
            images=self._images,
            messages=turns,
            as_demo=True,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_k=settings.top_k,
            top_p=settings.top_p,
            num_beams=settings.num_beams,
            seed=new_seed(),
            id=self._num_asked,
        )
        limit, shown, text, note = self._llava.config.num_positions, "", "", ""
        with self._stoppable():
            self._write("ASSISTANT: ")
            for partial in self._partials(request):
                text = self._llava.readable(partial)
                if settings.num_beams == 1:
                    self._write(text[len(shown) :])
                    shown = text
                if self._is_stopped:
                    note = " (stopped)"
                elif partial.stop_reason == "length":
                    note = f" (cut after {settings.max_new_tokens} tokens: --max-new-tokens)"
                elif limit and partial.prompt_tokens + len(partial.token_ids) >= limit:
                    note = f" (the model reads no more than {limit} tokens: /reset)"
                if note:
                    break
        self._write(f"{text[len(shown) :]}{note}\n")
        return text

    def _partials(self, request: Request) -> Iterator[Partial]:
        """How far the answer is after each step."""
        if request.num_beams > 1:
            yield from self._llava.search(request)
            return
        self._stream.add([request])
        while step := self._stream.step():
            yield from step

    @contextmanager
    def _stoppable(self) -> Iterator[None]:
        """Lets Ctrl-C end the answer after the present step; a second one ends the program."""
        self._is_stopped = False

        def stop(_: int, __: FrameType | None) -> None:
            self._is_stopped = True
            signal.signal(signal.SIGINT, before)

        before = signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _save(self, name: str) -> None:
        if not name:
            raise DataError("/save needs the name of a file")
        identity = self._llava.identity
        conversation = {
            "model": identity.model_id,
            "fingerprint": identity.fingerprint,
            "conversation": identity.chat_conversation,
            "images": self._names,
            "messages": self._turns,
        }
        try:
            with _expanded(name).open("x", encoding="utf-8") as file:
                json.dump(conversation, file, indent=2, ensure_ascii=False)
        except FileExistsError as error:
            raise DataError(f"{name} is there already; give another name") from error
        except OSError as error:
            raise DataError(f"{name} cannot be written: {error}") from error
        self._write(f"(written: {name})\n")


def open_source(source: str) -> Image.Image:
    """Opens the picture of a file or an http address.

    Raises:
        DataError: it cannot be read.
    """
    if not source:
        raise DataError("/image needs a file or an http address")
    if not source.startswith(("http://", "https://")):
        return open_image(_expanded(source))
    # Whoever types the address may reach it.
    try:
        host = urlsplit(source).hostname or ""
    except ValueError as error:
        raise DataError(f"{source} is no http address: {error}") from error
    policy = PicturePolicy(trusted_hosts=frozenset({host}))
    return asyncio.run(open_pictures([source], policy))[0]


def _expanded(name: str) -> Path:
    """The path, beginning with somebody's home folder where it begins with `~` or `~name`."""
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise DataError(f"{name}: {error}") from error
