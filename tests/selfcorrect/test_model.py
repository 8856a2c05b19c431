"""`SelfCorrectModel`: the calibrated stop decision in a script, and what it refuses."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selfcorrect import SelfCorrectModel
from selfcorrect.chat import EMBEDDED, ChatCodec
from selfcorrect.correction.judges import JudgeRecipe
from selfcorrect.correction.loop import LoopSettings
from selfcorrect.correction.stop_rule import Calibrator, StopRule
from selfcorrect.engines import EngineRecipe
from selfcorrect.engines.scripted import Reply, ScriptedEngine
from selfcorrect.errors import DataError, InputError, ModelError
from selfcorrect.eval.run import EvalRecipe

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


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"method": "self_rewarding"}, 'did you mean "self-rewarding"'),
        ({"stop": "foo"}, "stop: expected one of sampled, argmax"),
        ({"stop": "treshold"}, 'did you mean "threshold"'),
        ({"horizon": 0}, "horizon=0"),
        ({"horizon": "2"}, "horizon: expected int"),
        ({"max_tokens": -1}, "max_tokens=-1"),
        ({"path_tokens": 0}, "path_tokens=0"),
        ({"temperature": -0.1}, "temperature=-0.1"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"horison": 2}, 'did you mean "horizon"'),
        ({"rule": 0.5}, "expected a StopRule"),
    ],
)
def test_a_setting_outside_its_set_is_refused_before_anything_is_loaded(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        SelfCorrectModel.load("no/such/model", **settings)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: LoopSettings(method="self_rewarding"), 'did you mean "self-rewarding"'),  # type: ignore[arg-type]
        (lambda: LoopSettings(horizon=0), "horizon=0"),
        (lambda: EngineRecipe(kind="transformer"), 'did you mean "transformers"'),  # type: ignore[arg-type]
        (lambda: JudgeRecipe(kind="orms"), 'did you mean "orm"'),  # type: ignore[arg-type]
        (lambda: EvalRecipe(method="Asked"), 'did you mean "asked"'),  # type: ignore[arg-type]
        (lambda: EvalRecipe(stop="foo"), "stop: expected one of"),  # type: ignore[arg-type]
        (lambda: EvalRecipe(horizon=0), "horizon=0"),
    ],
)
def test_closed_sets_are_checked_where_settings_are_made(make: Callable[[], object], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        make()


def test_a_model_is_named_by_a_path_too(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        SelfCorrectModel.load(tmp_path / "nothing")
    with SelfCorrectModel.load(EMBEDDED, method="asked", max_tokens=8) as model:
        assert model.settings.max_tokens == 8


def test_one_question_is_no_list_of_questions(codec: ChatCodec) -> None:
    with pytest.raises(InputError, match="use solve"):
        SelfCorrectModel(ScriptedEngine(lambda r, p: SAID, codec), codec).solve_many("What is 2+2?")
