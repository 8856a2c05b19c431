"""What a sentence states, word by word; the sentences as wholes are in kinds.jsonl ("stated or denied")."""

from __future__ import annotations

import pytest

from selfcorrect.grading import extract_answer
from selfcorrect.grading.denials import denied_after, states_not


@pytest.mark.parametrize(
    "before",
    [
        "I doubt the answer is ", "I don't think that the answer is ", "the answer isn’t ", "It is anything but ",
        "x ≠ ", "The answer is nowhere near ", "The answer is half of ", "If the answer is ", "The wrong answer is ",
        "Ich glaube nicht, dass die Antwort ", "Die Antwort ist kleiner als ", "Je ne pense pas que la réponse est ",
        "No creo que la respuesta es ", "Non credo che la risposta è ", "Не думаю, что ответ: ", "我不认为答案是",
        "答案大于", "Nie sądzę, że odpowiedź to ",
    ],
)  # fmt: skip
def test_words_before_a_value_take_it_back(before: str) -> None:
    assert states_not(before)


@pytest.mark.parametrize(
    "before",
    [
        "The answer is ", "No, the answer is ", "There is no doubt that the answer is ", "The other half is ",
        "Since 3 does not divide 7, the answer is ", "It is not 4. The answer is ", "mais la réponse est ",
        "The value of n is ", "Sin duda la respuesta es ", "5不是质数，答案是", "I think so, the answer is ", "",
    ],
)  # fmt: skip
def test_other_words_do_not(before: str) -> None:
    assert not states_not(before)


def test_a_condition_may_be_left_out() -> None:
    assert states_not("Equality holds if $")
    assert not states_not("Equality holds if $", conditions=False)


@pytest.mark.parametrize(
    "after", [" is wrong.", "$ is incorrect", " ではない。", "이 아닙니다", " değil", ", which is false"]
)
def test_words_after_a_value_deny_it(after: str) -> None:
    assert denied_after(after, asks=False)


@pytest.mark.parametrize("after", ["? No.", "吗？", "でしょうか", ", right?"])
def test_a_question_states_nothing(after: str) -> None:
    assert denied_after(after)
    assert not denied_after(after, asks=False)


@pytest.mark.parametrize("after", [" apples.", ", not 46.", " is not wrong", ". Is that all?", "です。", ""])
def test_a_statement_stays_one(after: str) -> None:
    assert not denied_after(after)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is 12. I doubt the answer is 47.", "12"),  # an earlier statement counts
        ("The answer is 47. No: the answer is not 47.", None),  # unless it is what was taken back
        ("The answer is 47. Hmm, is the answer 47? Yes.", "47"),  # a question takes nothing back
        (r"\boxed{41}. No, \boxed{42} is wrong.", "41"),
        (r"\boxed{42}. No, \boxed{42} is wrong.", None),
        (r"The answer is not \boxed{42}", None),
        ("The answer is negative 47", "-47"),
    ],
)
def test_which_of_several_statements_counts(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer
