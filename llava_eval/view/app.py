"""The pages of a report as a server gives them: samples a few at a time, pictures as they are seen.

Files come from the report's folder and nowhere else, pictures only from what a run's samples name.
Pages that a web site opens in the same browser can neither read nor embed any of it: names other
than this machine's are refused, so a site cannot pass its own name off as this server's.
"""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.responses import PlainTextResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.staticfiles import StaticFiles

from llava_eval import pages
from llava_eval.baseline import open_side
from llava_eval.compare_report import compare_sides, comparison_page
from llava_eval.errors import EvalError, RunError, SampleError
from llava_eval.pictures import make_shown, make_small, read_picture
from llava_eval.samples import Row, samples_page
from llava_eval.spec import TaskSpec
from llava_eval.view.gallery import Gallery, Pictures
from llava_eval.view.shelf import Teller, ViewedRun

CHUNK = 50
"""Samples that a reply tells of; as many as the page's script draws at a time."""

_SMALL_PX = 320
_POLICY = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def make_app(
    report: Path,
    shelf: Mapping[str, ViewedRun],
    *,
    tasks: Mapping[str, TaskSpec],
    data: str | None = None,
    hosts: Sequence[str] = ("*",),
) -> FastAPI:
    """The server as a web application.

    Args:
        report: the report's folder.
        shelf: its runs, by key.
        tasks: name -> task.
        data: where the pictures are; None: where each run had them from.
        hosts: names that the server is asked by; `*` is any.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    app.middleware("http")(_with_policy)
    app.add_exception_handler(EvalError, _tell)
    gallery = Gallery(tasks, data)
    _add_overview(app, report, shelf)
    _add_comparison(app, shelf, tasks, gallery)
    teller = Teller()
    for viewed in shelf.values():
        routes = _sample_routes(viewed, tasks, teller, gallery)
        app.include_router(routes, prefix=f"/samples/{viewed.key}")
    app.mount("/", StaticFiles(directory=report))
    return app


async def _with_policy(
    request: Request, answer: Callable[[Request], Awaitable[Response]]
) -> Response:
    response = await answer(request)
    response.headers.update(_POLICY)
    return response


async def _tell(_: Request, error: Exception) -> Response:
    return PlainTextResponse(str(error), status_code=404)


def _add_overview(app: FastAPI, report: Path, shelf: Mapping[str, ViewedRun]) -> None:
    @app.get("/")
    def overview() -> Response:
        """What there is to look at."""
        others = sorted(path.name for path in report.glob("*.html"))
        return _html(
            pages.html(
                "view",
                served=True,
                shelf=list(shelf.values()),
                others=[name for name in others if name != "leaderboard.html"],
            )
        )


def _add_comparison(
    app: FastAPI, shelf: Mapping[str, ViewedRun], tasks: Mapping[str, TaskSpec], gallery: Gallery
) -> None:
    @app.get("/compare")
    def compare(first: str, second: str) -> Response:
        """Two runs, sample by sample."""
        for key in (first, second):
            if key not in shelf:
                raise RunError(f"no run {key!r}; there are {', '.join(shelf)}")
        one, other = (open_side(shelf[key].folder, tasks) for key in (first, second))
        viewed = shelf[second]

        def addresses(task: str, row: Row) -> list[str]:
            return _addresses(f"samples/{viewed.key}/{task}", row, gallery.pictures(viewed, task))

        return _html(comparison_page(compare_sides(one, other, tasks), addresses=addresses))


def _sample_routes(
    viewed: ViewedRun, tasks: Mapping[str, TaskSpec], teller: Teller, gallery: Gallery
) -> APIRouter:
    router = APIRouter()

    @router.get("/{task}.html")
    def page(task: str) -> Response:
        """The page of a task's samples, without them."""
        rows = teller.tell(viewed, task).rows
        spec, rows_at = tasks.get(task), f"{task}/rows"
        return _html(samples_page(rows, run=viewed.run, task=task, spec=spec, rows_at=rows_at))

    @router.get("/{task}/rows")
    def rows(
        task: str, choice: str = "", words: str = "", start: Annotated[int, Query(ge=0)] = 0
    ) -> Response:
        """Some of the samples of a verdict whose text has all words, and how many there are."""
        found = teller.tell(viewed, task).find(choice, words.lower().split())
        pictures = gallery.pictures(viewed, task)
        chunk = found[start : start + CHUNK]
        shown = [{**row, "pictures": _addresses(task, row, pictures)} for row in chunk]
        reply = {"number": len(found), "rows": shown, "note": pictures.fault}
        # In ASCII, which half a surrogate pair fits too.
        return Response(json.dumps(reply), media_type="application/json")

    @router.get("/{task}/picture")
    def picture(task: str, sample: str, place: int = 0, *, small: bool = False) -> Response:
        """A picture of a sample."""
        images = gallery.pictures(viewed, task).by_sample.get(sample, ())
        if not 0 <= place < len(images):
            raise SampleError(f"sample {sample!r} has no picture {place}")
        data = read_picture(images[place])
        made = make_small(data, _SMALL_PX) if small else make_shown(data)
        headers = {"Cache-Control": "private, max-age=3600"}
        return Response(made.data, media_type=made.media_type, headers=headers)

    return router


def _html(text: str) -> Response:
    return Response(text.encode("utf-8", "backslashreplace"), media_type="text/html; charset=utf-8")


def _addresses(start: str, row: Row, pictures: Pictures) -> list[str]:
    """Where the pictures of a sample are; `&small=1` asks for them made small."""
    return [
        f"{start}/picture?{urlencode({'sample': row['id'], 'place': place}, errors='replace')}"
        for place in range(len(pictures.of(row)))
    ]
