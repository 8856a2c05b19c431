"""`Row`: one request on its way through a batch."""

from __future__ import annotations

from dataclasses import dataclass, field

from selfcorrect.engines import Sample, SampleRequest
from selfcorrect.engines.local.sampling import StopTexts


@dataclass(slots=True, eq=False)
class Row:
    """One request on its way: what was sampled so far and how it ended."""

    request: SampleRequest
    stop_texts: StopTexts | None = None
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    watched: list[tuple[float, ...]] = field(default_factory=list)
    stop_id: int | None = None
    stop_logprob: float = 0.0
    finish: str | None = None
    cancelled: bool = False
    slot: int = -1

    @property
    def length(self) -> int:
        """Tokens of the prompt and the completion so far."""
        return len(self.request.prompt_ids) + len(self.token_ids)

    @property
    def cached_ids(self) -> tuple[int, ...]:
        """The tokens that went through the model: all but the newest, unless a stop id followed it."""
        return self.request.prompt_ids + tuple(self.token_ids if self.finish == "stop" else self.token_ids[:-1])

    def append(self, token: int, logprob: float, watched: list[float]) -> None:
        """Take one sampled token; sets ``finish`` when it is the last."""
        if token in self.request.stop_ids:
            self.finish, self.stop_id, self.stop_logprob = "stop", token, logprob
            return
        self.token_ids.append(token)
        self.logprobs.append(logprob)
        if self.request.watch_ids:
            self.watched.append(tuple(watched[: len(self.request.watch_ids)]))
        if self.stop_texts is not None and self.stop_texts.reached(self.token_ids):
            self.finish = "text"
        elif len(self.token_ids) >= self.request.max_tokens:
            self.finish = "length"

    def sample(self) -> Sample:
        """Return the finished sample."""
        assert self.finish is not None
        return Sample(
            token_ids=tuple(self.token_ids),
            logprobs=tuple(self.logprobs),
            finish=self.finish,
            stop_id=self.stop_id,
            stop_logprob=self.stop_logprob,
            watched=tuple(self.watched),
        )
