"""`LongCotStream` divides a long-CoT completion into reasoning and content while it is written; for servers' doors.

The content is the last attempt. Whatever may still be followed by another attempt is reasoning, so an attempt that
turns out to be the last is given twice: as reasoning while it was written, and as content once that is known, at its
verdict or at the end. The attempt at the horizon cannot be superseded: it is content while it is written.
"""

from __future__ import annotations

from selfcorrect.adapters.turns import read_turns
from selfcorrect.correction.parsing import attempt_so_far
from selfcorrect.errors import InputError
from selfcorrect.types import Verdict
from selfcorrect.verdicts import MARKS, before_mark, next_mark

_LONGEST_MARK = max(map(len, MARKS.values()))


class LongCotStream:
    """Takes a completion piece by piece; however it is cut into pieces, the sums of what comes back are the same.

    ``span`` is where the content lies in the text, once ``done``; nothing that comes later changes the content.
    """

    def __init__(self, horizon: int = 2) -> None:
        if isinstance(horizon, bool) or not isinstance(horizon, int) or horizon < 1:
            raise InputError(f"horizon is the largest number of attempts, a whole number from 1; got {horizon!r}")
        self.horizon, self.text, self.done, self.span = horizon, "", False, (0, 0)
        self._marks = 0  # verdicts read
        self._part = 0  # where the part after the last of them begins
        self._before = 0  # where the attempt of the part before begins
        self._given = 0  # how much of the text has been given, as one or the other
        self._content = ""  # what was given as content

    def feed(self, piece: str, ended: bool = False) -> tuple[str, str]:
        """Return the reasoning and the content that a piece brings; ``ended``: there is no more to come."""
        searched = max(0, len(self.text) - _LONGEST_MARK)
        self.text += piece
        reasoning = content = ""
        while not self.done:
            mark = next_mark(self.text, max(self._part, searched))
            if mark is None and not ended:
                more = self._more()
            elif mark and self._goes_on(mark.end()):
                more = self._reasoning_to(mark.end()), ""
                self._before, self._part, self._marks = self._begins(), mark.end(), self._marks + 1
            else:
                more = self._decide(mark.end() if mark else len(self.text))
            reasoning, content = reasoning + more[0], content + more[1]
            if mark is None:
                break
        return (reasoning + self._reasoning_to(len(self.text)) if self.done else reasoning), content

    def _goes_on(self, end: int) -> bool:
        """Return whether another attempt may follow the verdict that ends at ``end``."""
        turns = read_turns(self.text[:end])
        judged = self._marks + 1
        return judged < self.horizon and len(turns.attempts) == judged and turns.verdicts[-1] is Verdict.WRONG

    def _decide(self, end: int) -> tuple[str, str]:
        """Give what is left of the last attempt in ``text[:end]``, as content; what follows it is reasoning.

        Where the model wrote no attempt, only a mark, all that it wrote is the content: there is always one.
        """
        self.done = True
        turns, begins, reasoning = read_turns(self.text[:end]), self._begins(), ""
        last = turns.final.text
        if not last:
            last = self.text[:end].strip()
            begins = self.text.find(last)
        elif len(turns.attempts) == self._marks:  # the verdict was not followed by a revision
            begins = self._before
        elif self._marks == self.horizon - 1:  # it has been content since it began
            reasoning = self._reasoning_to(begins)
            self._given = begins + len(last)
        self.span = (begins, begins + len(last))
        return reasoning, last[len(self._content) :]

    def _more(self) -> tuple[str, str]:
        """Give all of an attempt that may be superseded; of the one at the horizon, what is certainly attempt."""
        if self._marks < self.horizon - 1:
            return self._reasoning_to(len(self.text)), ""
        begins, part = self._begins(), before_mark(self.text[self._part :])
        certain = self.text[begins : self._part + attempt_so_far(part)[0]].rstrip()
        reasoning, more = self._reasoning_to(begins), certain[len(self._content) :]
        self._content += more
        self._given = max(self._given, begins + len(self._content))
        return reasoning, more

    def _begins(self) -> int:
        """Return where the part being read begins to say something."""
        return len(self.text) - len(self.text[self._part :].lstrip())

    def _reasoning_to(self, end: int) -> str:
        """Give the text to ``end`` as reasoning, as far as it was not given yet."""
        more, self._given = self.text[self._given : end], max(self._given, end)
        return more
