"""What a client is told that gets no answer: a status, and the body that OpenAI's clients read."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from llava_core.errors import DataError

_TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
}


class Refusal(Exception):
    """A request that gets no answer, and the HTTP status that says why."""

    def __init__(self, status: int, message: str, *, retry_after_s: int | None = None) -> None:
        """States the reason.

        Args:
            retry_after_s: when it is worth asking again.
        """
        super().__init__(message)
        self.status = status
        self.headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}


def error_body(status: int, message: str) -> dict[str, Any]:
    """The error object of OpenAI's API."""
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}


def install(app: FastAPI) -> None:
    """Makes an app answer every error in one form."""

    def refused(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Refusal)
        return _response(error.status, str(error), error.headers)

    def malformed(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return _response(400, _first_fault(error))

    def http(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return _response(error.status_code, str(error.detail), error.headers)

    def unusable(_: Request, error: Exception) -> JSONResponse:
        return _response(400, str(error))

    app.add_exception_handler(Refusal, refused)
    app.add_exception_handler(DataError, unusable)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(HTTPException, http)


def too_large(max_bytes: int) -> HTTPException:
    """What a body that is too large gets; only this class passes through FastAPI's reading."""
    return HTTPException(413, f"the body has more than {max_bytes:,} bytes")


def too_slow(max_seconds: float) -> HTTPException:
    """What a body that does not come gets; of the same class, and for the same reason."""
    message = f"the body did not come within {max_seconds:.0f} s"
    return HTTPException(408, message, headers={"Connection": "close"})


def _response(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse(error_body(status, message), status_code=status, headers=headers)


def _first_fault(error: RequestValidationError) -> str:
    """Names the field and what is expected; the value may be a whole picture and is left out."""
    # Of the alternatives of a field, the one that fits furthest says most.
    fault = max(error.errors(), key=lambda fault: len(fault["loc"]))
    # Between the names of fields stand those of pydantic's own schema.
    names = [str(part) for part in fault["loc"] if part != "body"]
    place = ".".join(name for name in names if name.replace("_", "").isalnum())
    # A field's name comes from the client and may be no text.
    return f"{place or 'body'}: {fault['msg']}".encode(errors="replace").decode()
