"""vLLM: a reasoning parser, so that a long-CoT checkpoint behind `vllm serve` answers any chat client (docs/doors.md).

    vllm serve CHECKPOINT --reasoning-parser selfcorrect --reasoning-parser-plugin selfcorrect.adapters.vllm_parser

The last attempt is the content, what comes before it the reasoning (`LongCotStream`), streamed or not. The horizon is
2, or what ``chat_template_kwargs`` says: of a request, or of the server by ``--default-chat-template-kwargs``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from vllm.entrypoints.generate.base.protocol import DeltaMessage
from vllm.exceptions import VLLMValidationError
from vllm.reasoning import ReasoningParser, ReasoningParserManager

from selfcorrect.adapters.long_cot import LongCotStream
from selfcorrect.errors import InputError


class SelfCorrectReasoningParser(ReasoningParser):
    """One a request. vLLM calls `extract_reasoning` on a whole text, or the two of streaming on its pieces."""

    engine_based_streaming = True
    """Else vLLM would not call `finish_streaming`, and a stream without a verdict would end without content."""

    def __init__(self, tokenizer: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(tokenizer, *args, **kwargs)
        self._horizon = (kwargs.get("chat_template_kwargs") or {}).get("horizon", 2)
        try:
            self._stream = LongCotStream(self._horizon)
        except InputError as error:
            raise VLLMValidationError(str(error)) from error  # a 400 in vLLM, where another error is a 500

    def adjust_request(self, request: Any) -> Any:
        """Return the request; an error where it asks for a format, which would forbid the verdict."""
        if request.extract_structured_outputs() is not None:
            raise VLLMValidationError("a long-CoT completion has no format: leave response_format and guided decoding")
        return request

    def extract_reasoning(self, model_output: str, request: Any) -> tuple[str | None, str | None]:
        """Return the reasoning and the content of a whole completion."""
        reasoning, content = LongCotStream(self._horizon).feed(model_output, ended=True)
        return reasoning or None, content or None

    def extract_reasoning_streaming(
        self,
        previous_text: str,
        current_text: str,
        delta_text: str,
        previous_token_ids: Sequence[int],
        current_token_ids: Sequence[int],
        delta_token_ids: Sequence[int],
    ) -> DeltaMessage | None:
        """Return what a piece brings."""
        return _message(*self._stream.feed(delta_text))

    def finish_streaming(self) -> DeltaMessage | None:
        """Return what waited for the end of the completion."""
        return _message(*self._stream.feed("", ended=True))

    def is_reasoning_end(self, input_ids: Sequence[int]) -> bool:
        """Never: the parser sees every piece to the end, as reasoning may follow content (a last self-evaluation)."""
        return False

    def extract_content_ids(self, input_ids: list[int]) -> list[int]:
        """Return the tokens of the last attempt."""
        first, last = self._content_tokens(input_ids)
        return list(input_ids[first:last])

    def count_reasoning_tokens(self, token_ids: Sequence[int]) -> int:
        """Return how many tokens are not of the last attempt."""
        first, last = self._content_tokens(token_ids)
        return len(token_ids) - (last - first)

    def _content_tokens(self, ids: Sequence[int]) -> tuple[int, int]:
        """Return the first token of the last attempt and the one after it."""

        def decoded(count: int) -> str:
            return self.model_tokenizer.decode(list(ids[:count]), skip_special_tokens=True)

        stream = LongCotStream(self._horizon)
        stream.feed(decoded(len(ids)), ended=True)
        counts = range(len(ids) + 1)
        first, last = (bisect_left(counts, end, key=lambda count: len(decoded(count))) for end in stream.span)
        return first, last


def _message(reasoning: str, content: str) -> DeltaMessage | None:
    said = {name: text for name, text in (("reasoning", reasoning), ("content", content)) if text}
    return DeltaMessage(**said) if said else None


ReasoningParserManager.register_module("selfcorrect", module=SelfCorrectReasoningParser)
