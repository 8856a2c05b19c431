"""`ApiError`: what is wrong with a request, in OpenAI's shape. Raised by the addresses, sent by `app` and `guard`."""

from __future__ import annotations

from typing import Any

from selfcorrect.errors import EngineError, InputError, RequestRefused, SelfCorrectError
from selfcorrect.printing import clean
from selfcorrect.redaction import redacted_text

LONGEST_MESSAGE = 2000  # characters: what a request holds comes back in its error


class ApiError(Exception):
    """An answer that is an error: its HTTP status, and ``type``, ``code`` and ``param`` as OpenAI names them."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.code, self.param = status, kind, code, param
        self.headers = headers or {}

    def body(self, request_id: str) -> dict[str, Any]:
        """Return the JSON body."""
        message = clean(redacted_text(str(self)[:LONGEST_MESSAGE]))
        param = None if self.param is None else clean(self.param)
        error = {"message": message, "type": self.kind, "param": param, "code": self.code}
        return {"error": error | {"request_id": request_id}}


def wrong(param: str, message: str) -> ApiError:
    """Return the error for one field of a request."""
    return ApiError(400, f"{param}: {message}", param=param)


def api_error(error: SelfCorrectError) -> ApiError:
    """Return what an error of the library means to a client."""
    if isinstance(error, RequestRefused):
        too_long = error.outcome == "prompt-too-long"
        return ApiError(400, str(error), code="context_length_exceeded" if too_long else "refused")
    if isinstance(error, InputError):
        return ApiError(400, str(error))
    if isinstance(error, EngineError):
        return ApiError(503, str(error), kind="server_error", code="engine")
    return ApiError(500, str(error), kind="server_error")


def fault(error: BaseException) -> ApiError:
    """Return the error for what we did wrong: a client learns its kind alone, the log has the traceback."""
    return ApiError(500, f"a fault of this server ({type(error).__name__}); its log has it", kind="server_error")
