"""`SelfCorrectModel`: the calibrated stop decision in a script, and what it refuses."""

from __future__ import annotations

import pytest

from selfcorrect import SelfCorrectModel
from selfcorrect.correction import LoopSettings
from selfcorrect.engines.scripted import Reply, ScriptedEngine
from selfcorrect.errors import DataError, InputError
from selfcorrect.stopping import Calibrator, StopRule
from selfcorrect.tokens import ChatCodec

SAID = "\\boxed{5}\n\nfine\n[VERIFY] correct."


@pytest.mark.parametrize(("threshold", "answer"), [(0.3, "5"), (0.6, "4")])
def test_the_threshold_decides_and_not_the_mark(codec: ChatCodec, threshold: float, answer: str) -> None:
    engine = ScriptedEngine(
        lambda request, prompt: Reply("\\boxed{4}" if "[VERIFY] wrong." in prompt else SAID, p_correct=0.4), codec
    )
    settings = LoopSettings(stop="threshold", rule=StopRule(Calibrator(), threshold))
    with SelfCorrectModel(engine, codec, settings) as model:
        assert model.solve("What is 2+2?").final.answer == answer


def test_what_a_script_cannot_have_is_refused(codec: ChatCodec) -> None:
    with pytest.raises(DataError, match="selfcorrect eval calibrate"):
        SelfCorrectModel.load("embedded", stop="threshold")
    for settings in (LoopSettings("gold"), LoopSettings(stop="gold")):
        with pytest.raises(InputError, match="reference answers"):
            SelfCorrectModel(ScriptedEngine(lambda r, p: SAID, codec), codec, settings).solve("What is 2+2?")
