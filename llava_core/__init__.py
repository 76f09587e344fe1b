"""The model. Names are imported when they are first used, so that `--help` needs no torch."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llava_core.generate.request import Request, Response
    from llava_core.predict import Llava, load

__all__ = ["Llava", "Request", "Response", "load"]


def __getattr__(name: str) -> Any:
    if name in ("Request", "Response"):
        from llava_core.generate import request as module
    elif name in ("Llava", "load"):
        from llava_core import predict as module  # type: ignore[no-redef]
    else:
        raise AttributeError(f"module 'llava_core' has no attribute {name!r}")
    return getattr(module, name)
