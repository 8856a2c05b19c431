"""One scripted rollout, scored and weighed: every rule, credit and treatment of cut paths, against written numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from selfcorrect.chat import ChatCodec
from selfcorrect.engines import Sample, SampleRequest, sample_seed
from selfcorrect.errors import InputError
from selfcorrect.rewards import RewardRecipe
from selfcorrect.train.grpo import GrpoRecipe
from selfcorrect.train.rl.guards import GuardRecipe
from selfcorrect.train.rl.rollout_function import RolloutFunction
from selfcorrect.train.rl.rollout_metrics import measure, part_means, turn1_by_problem
from selfcorrect.train.rl.rollouts import Rollout, graded, places_of, roll_out
from selfcorrect.train.rl.scored_rollout import ScoredRollout, known_returns, score, weigh
from selfcorrect.types import Grade, Outcome, Problem

PROBLEMS = [Problem("p", "Guess.", "3", "arithmetic"), Problem("q", "Guess again.", "3", "arithmetic")]
RIGHT, WRONG = "\\boxed{3}", "\\boxed{4}"
JUDGED_RIGHT, JUDGED_WRONG = "\n\n[VERIFY] correct.", "\n\n[VERIFY] wrong."

# Two groups of four. A grade of "?" stands for a failure of the grader on that attempt.
PATHS = [
    (RIGHT + JUDGED_RIGHT, "r"),
    (WRONG + JUDGED_WRONG + "\n\n" + RIGHT + JUDGED_RIGHT, "wr"),
    (WRONG + JUDGED_WRONG + "\n\n" + WRONG + JUDGED_RIGHT, "ww"),
    ("so 3 is wh", "w"),  # cut by the budget
    (WRONG + JUDGED_WRONG + "\n\n" + RIGHT + JUDGED_RIGHT, "?r"),
    (RIGHT + JUDGED_RIGHT, "r"),
    (WRONG + JUDGED_RIGHT, "w"),
    (WRONG + JUDGED_RIGHT, "?"),
]
CUT = 3
GRADES = {"r": Grade(Outcome.CORRECT), "w": Grade(Outcome.WRONG), "?": Grade(Outcome.UNGRADABLE, method="undecided")}


class Script:
    """Writes the paths in turn, whatever it is asked; remembers the seeds."""

    context = None

    def __init__(self, codec: ChatCodec) -> None:
        self.codec, self.seeds = codec, list[int]()

    def follow(self, model: Any) -> None:
        """Nothing to follow."""

    def rest(self) -> None:
        """Nothing to free."""

    def close(self) -> None:
        """Nothing to close."""

    def sample_many(self, requests: Sequence[SampleRequest]) -> list[Sample]:
        self.seeds += [request.seed for request in requests]
        return [self._written(PATHS[place % len(PATHS)][0], place) for place in range(len(requests))]

    def _written(self, text: str, place: int) -> Sample:
        ids = self.codec.encode(text)
        cut = place % len(PATHS) == CUT
        return Sample(ids, (-0.5,) * len(ids), "length" if cut else "stop", None if cut else self.codec.turn_end, -0.5)


def recipe_of(**settings: Any) -> GrpoRecipe:
    return GrpoRecipe(prompts_per_step=2, generations=4, max_tokens=100, **settings)


def scored(codec: ChatCodec, **settings: Any) -> ScoredRollout:
    """Return the scripted trajectories, graded as written, with their rewards under a recipe's settings."""
    recipe = recipe_of(**settings)
    problems = [problem for problem in PROBLEMS for _ in range(4)]
    found = roll_out(Script(codec), codec, problems, [0] * 8, recipe.sampling)
    return score([_with_grades(rollout, signs) for rollout, (_, signs) in zip(found, PATHS, strict=True)], recipe)


def _with_grades(rollout: Rollout, signs: str) -> Rollout:
    attempts = tuple(
        replace(attempt, grade=GRADES[sign]) for attempt, sign in zip(rollout.trajectory.attempts, signs, strict=True)
    )
    return replace(rollout, trajectory=replace(rollout.trajectory, attempts=attempts))


def by_part(found_rollout: ScoredRollout, values_BT: list[list[float]]) -> list[list[float]]:
    """Return the one value that every token of each part has; tokens of no part must have 0."""
    found: list[list[float]] = []
    for rollout, row in zip(found_rollout.rollouts, values_BT, strict=True):
        left = list(row)
        found.append([])
        for part in rollout.parts:
            (value,) = set(row[part.start : part.end])
            found[-1].append(value)
            left[part.start : part.end] = [0.0] * (part.end - part.start)
        assert not any(left)
    return found


def advantages_by_part(codec: ChatCodec, **settings: Any) -> list[list[float]]:
    found = scored(codec, **settings)
    columns = max(len(rollout.completion_ids) for rollout in found.rollouts) + 3
    values_BT = weigh(found, recipe_of(**settings), columns)
    assert values_BT is not None
    assert values_BT.shape == (8, columns)
    return by_part(found, values_BT.tolist())


def flat(rows: list[list[float]]) -> list[float]:
    return [value for row in rows for value in row]


def masked_parts(found: ScoredRollout) -> list[list[float]]:
    return by_part(found, [[float(m) for m in row] for row in found.loss_masks])


def test_the_script_is_read_as_it_is_written(codec: ChatCodec) -> None:
    rollouts = scored(codec)
    spans = [[(part.role.value, part.start, part.end) for part in rollout.parts] for rollout in rollouts.rollouts]
    assert spans[0] == [("attempt", 0, 9), ("self-evaluation", 9, 29)]  # the end of the message is in the last part
    assert spans[1] == [
        ("attempt", 0, 9),
        ("self-evaluation", 9, 26),
        ("revision", 26, 37),
        ("self-evaluation", 37, 57),
    ]
    assert spans[CUT] == [("attempt", 0, 10)]
    assert [rollout.trajectory.stop for rollout in rollouts.rollouts] == ["verdict"] * 3 + ["length"] + ["verdict"] * 4


ONE = [1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, None]


@pytest.mark.parametrize(
    ("loss_type", "overlong", "expected"),
    [
        ("rloo", "keep", [2 / 3, 2 / 3, -2 / 3, -2 / 3, 0.5, 0.5, -1.0, 0.0]),
        ("rloo", "mask", [2 / 3, 2 / 3, -2 / 3, -2 / 3, 0.5, 0.5, -1.0, 0.0]),
        ("rloo", "drop", [0.5, 0.5, -1.0, 0.0, 0.5, 0.5, -1.0, 0.0]),
        ("raft++", "keep", [1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0]),
        ("raft++", "mask", [1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0]),
        ("raft++", "drop", [1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0]),
        ("reinforce-rej", "keep", [1.0, 1.0, -1.0, -1.0, 1.0, 1.0, -1.0, 0.0]),
        ("reinforce-rej", "mask", [1.0, 1.0, -1.0, -1.0, 1.0, 1.0, -1.0, 0.0]),
        ("reinforce-rej", "drop", [1.0, 1.0, -1.0, 0.0, 1.0, 1.0, -1.0, 0.0]),
        ("grpo", "keep", None),  # TRL's own
        ("grpo", "mask", None),
        ("grpo", "drop", None),
    ],
)
def test_credit_to_the_path(codec: ChatCodec, loss_type: str, overlong: str, expected: list[float] | None) -> None:
    rollout = scored(codec, loss_type=loss_type, overlong=overlong)
    rewards = ONE[:CUT] + [None] + ONE[CUT + 1 :] if overlong == "drop" else ONE
    assert list(rollout.rewards) == list(rollout.outcomes) == rollout.columns()["final_reward"] == rewards
    found = weigh(rollout, recipe_of(loss_type=loss_type, overlong=overlong), 60)
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        assert found.tolist() == pytest.approx(expected, abs=1e-6)
    learned = [[1.0] * 2, [1.0] * 4, [1.0] * 4, [float(overlong == "keep")], [1.0] * 4, [1.0] * 2, [1.0] * 2, [0.0] * 2]
    assert masked_parts(rollout) == learned  # the last trajectory has no reward


# Baselines are means over the other paths of the group with that role (the only revision of the second group: of the
# batch). By hand, for attempts | self-evaluations | revisions in the order of the paths.
PATH_CREDIT = [
    [2 / 3, 0.5],
    [2 / 3, 2 / 3, 1.0, 2 / 3],
    [-2 / 3, -1.0, -1.0, -1.0],
    [-2 / 3],
    [0.5, 0.5, 0.5, 0.5],
    [0.5, 1 / 3],
    [-1.0, -1.0],
    [0.0, 0.0],
]
PATH_CREDIT_DROPPED = [[0.5, 0.5], [0.5, 2 / 3, 1.0, 2 / 3], [-1.0, -1.0, -1.0, -1.0], [0.0], *PATH_CREDIT[4:]]
# Under turn credit: attempts earn 1 0 0 0 | ? 1 0 ?, self-evaluations half a point for each that is true
# (.5 | .5 .5 | .5 0 | | ? .5 | .5 | 0 | ?), revisions 1 | 0 | 1.
TURN_CREDIT = [
    [1.0, 0.125],
    [-1 / 3, 1 / 6, 1.0, 1 / 6],
    [-1 / 3, 0.0, -1.0, -0.5],
    [-1 / 3],
    [0.0, 0.0, 0.5, 0.25],
    [1.0, 0.25],
    [-1.0, -0.5],
    [0.0, 0.0],
]
TURN_CREDIT_DROPPED = [[1.0, 0.125], [-0.5, 1 / 6, 1.0, 1 / 6], [-0.5, 0.0, -1.0, -0.5], [0.0], *TURN_CREDIT[4:]]
LEARNED = [[1.0] * 2, [1.0] * 4, [1.0] * 4, [1.0], [1.0] * 4, [1.0] * 2, [1.0] * 2, [0.0] * 2]
PAID = RewardRecipe(correctness=1.0, verdict=0.5)


@pytest.mark.parametrize("overlong", ["keep", "mask", "drop"])
@pytest.mark.parametrize("credit", ["path", "turn"])
def test_advantages_by_role(codec: ChatCodec, credit: str, overlong: str) -> None:
    reward = PAID if credit == "turn" else RewardRecipe()
    settings = {"credit": credit, "overlong": overlong, "normalise": "role", "scale_rewards": "none", "reward": reward}
    kept = {"path": PATH_CREDIT, "turn": TURN_CREDIT}[credit]
    dropped = {"path": PATH_CREDIT_DROPPED, "turn": TURN_CREDIT_DROPPED}[credit]
    expected = dropped if overlong == "drop" else kept
    assert flat(advantages_by_part(codec, **settings)) == pytest.approx(flat(expected), abs=1e-6)
    learned = [list(row) for row in LEARNED]
    learned[CUT] = [float(overlong == "keep")]
    if credit == "turn":  # the ungradable attempt and the verdict on it; its revision stays
        learned[4] = [0.0, 0.0, 1.0, 1.0]
    assert masked_parts(scored(codec, **settings)) == learned


def test_the_ungradable_parts_leave_the_update_and_the_rest_of_the_path_stays(codec: ChatCodec) -> None:
    rollouts = scored(codec, credit="turn", normalise="role", reward=PAID)
    assert rollouts.returns[4] == (None, None, 1.0, 0.5)
    assert list(rollouts.outcomes) == [
        (1.0, 0.5),
        (0.0, 0.5, 1.0, 0.5),
        (0.0, 0.5, 0.0, 0.0),
        (0.0,),
        (None, None, 1.0, 0.5),
        (1.0, 0.5),
        (0.0, 0.0),
        None,
    ]
    assert scored(codec, credit="turn", normalise="role", overlong="drop").outcomes[CUT] is None


def test_scaling_divides_each_role_by_its_own_root_mean_square(codec: ChatCodec) -> None:
    found = advantages_by_part(codec, normalise="role", scale_rewards="group")
    plain = PATH_CREDIT
    attempts = math.sqrt((4 * 4 / 9 + 0.25 + 0.25 + 1) / 7) + 1e-4  # the last path has no reward
    revisions = math.sqrt((1 + 1 + 0.25) / 3) + 1e-4
    assert [row[0] * attempts for row in found[:7]] == pytest.approx([row[0] for row in plain[:7]], abs=1e-6)
    assert [found[n][2] * revisions for n in (1, 2, 4)] == pytest.approx([1.0, -1.0, 0.5], abs=1e-6)
    assert found[1][1] / found[0][1] == pytest.approx((2 / 3) / 0.5, abs=1e-6)
    assert found[0][1] != pytest.approx(plain[0][1], abs=1e-3)


def test_a_discount_pays_a_part_for_what_follows(codec: ChatCodec) -> None:
    rollouts = scored(codec, credit="turn", normalise="role", turn_discount=1.0, reward=PAID)
    assert [list(values) for values in rollouts.returns] == [
        [1.5, 0.5],
        [2.0, 2.0, 1.5, 0.5],
        [0.5, 0.5, 0.0, 0.0],
        [0.0],
        [None, None, 1.5, 0.5],
        [1.5, 0.5],
        [0.0, 0.0],
        [None, None],
    ]
    assert known_returns([1.0, None, 2.0, 3.0], 0.5) == [None, None, 3.5, 3.0]
    assert known_returns([1.0, None, 2.0], 0.0) == [1.0, None, 2.0]
    assert known_returns([1.0, 2.0, None], 0.5) == [None, None, None]


def test_a_rollout_is_sampled_graded_rewarded_and_measured(codec: ChatCodec) -> None:
    script = Script(codec)
    rollout_function = RolloutFunction(recipe_of(), codec, PROBLEMS, script)
    texts = [text for text in rollout_function.prompt_texts for _ in range(4)]
    found = rollout_function.score(rollout_function.roll_out(texts, None, 0))
    columns = found.columns()
    assert columns["final_reward"] == [1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0]
    assert [len(row) for row in columns["env_mask"]] == [len(row) for row in columns["completion_ids"]]
    assert columns["logprobs"][0] == [-0.5] * 29
    assert [codec.decode(ids) for ids in columns["prompt_ids"]] == texts
    assert found.trajectories == tuple(rollout.trajectory for rollout in found.rollouts)
    figures = ("turn1", "final", "ungradable", "without_reward", "truncated", "reward")
    assert [found.figures[name] for name in figures] == [25.0, 50.0, 0, 0, 12.5, 0.5]
    assert script.seeds == [
        sample_seed(0, "grpo", 0, 0, problem.id, place) for problem in PROBLEMS for place in range(4)
    ]


def test_the_start_model_attempts_the_problems_of_every_rollout(codec: ChatCodec, tmp_path: Path) -> None:
    """Two rollouts of one problem, two trajectories each: the script writes correct, wrong | wrong, wrong of them."""
    guard = GuardRecipe(start_paths=2)
    recipe = GrpoRecipe(seed=5, steps=2, prompts_per_step=1, generations=2, max_tokens=100, guard=guard)
    script = Script(codec)
    rollout_function = RolloutFunction(recipe, codec, PROBLEMS, script)
    rollout_function.measure_start(None, tmp_path / "start.json")
    assert script.seeds == [sample_seed(5, "start", place, n) for place in range(2) for n in range(2)]
    assert json.loads((tmp_path / "start.json").read_text()) == [0.5, 0.0]
    assert rollout_function.start == [{"p": 0.5}, {"q": 0.0}]
    assert json.loads((tmp_path / "start-tokens.json").read_text()) == {"sampled_tokens": 150}
    again = RolloutFunction(recipe, codec, PROBLEMS, script)
    again.measure_start(None, tmp_path / "start.json")  # a resumed run reads it
    assert again.start == rollout_function.start
    sampled = rollout_function.roll_out([rollout_function.prompt_texts[1]] * 2, None, 1)
    figures = rollout_function.score(sampled).figures
    assert (figures["turn1_start"], figures["turn1_change"], figures["sampled_at"]) == (0.0, 50.0, 1)
    assert figures["rollout_s"] == sampled.seconds
    assert 0 <= sampled.seconds < 100
    assert 0 <= figures["grading_s"] < 100
    assert figures["reward/correctness"] == 1.0


def test_a_problem_that_comes_twice_in_a_rollout_is_sampled_anew(codec: ChatCodec) -> None:
    """Its first group keeps the seeds that it has alone."""
    script = Script(codec)
    recipe = GrpoRecipe(prompts_per_step=2, generations=2)
    rollout_function = RolloutFunction(recipe, codec, [PROBLEMS[0]] * 2, script)
    rollout_function.roll_out(rollout_function.prompt_texts[:1] * 4, None, 7)
    assert script.seeds == [sample_seed(0, "grpo", 7, 0, "p", place) for place in range(4)]
    assert len(set(script.seeds)) == 4
    assert places_of(["a", "a", "b", "b", "a", "a"]) == [0, 1, 0, 1, 2, 3]
    assert places_of(["a", "b"], {"a": 4}) == [4, 0]  # four trajectories in the processes before


def test_a_failing_grader_is_counted_and_is_no_fall_of_turn_1(codec: ChatCodec) -> None:
    rollouts = scored(codec)
    paths = [rollout.trajectory for rollout in rollouts.rollouts]
    assert turn1_by_problem(paths, 4) == [("p", 0.25), ("q", 0.5)]
    row = measure(paths, rollouts.rewards, 4, start={"p": 0.25, "q": 0.5})
    assert (row["ungradable"], row["without_reward"], row["turn1_change"], row["problems"]) == (2, 1, 0.0, 2)
    assert row["turn1_start"] == 37.5
    assert row["reward"] == pytest.approx(4 / 7)
    failed = [
        _with_grades(rollout, "?" * len(rollout.trajectory.attempts)).trajectory for rollout in rollouts.rollouts[:4]
    ]
    assert turn1_by_problem(failed, 4) == [("p", None)]
    row = measure(failed + paths[4:], [None] * 4 + list(rollouts.rewards[4:]), 4, start={"p": 1.0, "q": 0.5})
    assert (row["problems"], row["turn1_change"], row["turn1_start"]) == (1, 0.0, 50.0)
    assert measure(failed, [None] * 4, 4)["turn1"] is None
    unknown = measure(paths, rollouts.rewards, 4, start={"p": None, "q": 0.25})  # the grader failed at the start
    assert (unknown["turn1_change"], unknown["problems"]) == (25.0, 2)


def test_the_row_of_a_rollout_in_full(codec: ChatCodec) -> None:
    """Six of the eight paths are graded at both ends."""
    rollouts = scored(codec)
    paths = [rollout.trajectory for rollout in rollouts.rollouts]
    row = measure(paths, rollouts.rewards, 4, start={"p": 0.5, "q": 0.0})
    assert row.pop("turn1_changes") == [-0.25, 0.5]
    assert {name: value if value is None else round(value, 4) for name, value in row.items()} == {
        "reward": 0.5714,
        "ungradable": 2,
        "without_reward": 1,
        "zero_variance": 0.0,
        "sampled_tokens": 290,
        "mean_length": 36.25,
        "truncated": 12.5,
        "over_limits": 0.0,
        "prompt_too_long": 0.0,
        "revisions": 3,
        "revised": 37.5,
        "unchanged": 33.3333,
        "p_correct": None,
        "turn1": 33.3333,
        "final": 50.0,
        "i2c": 16.6667,
        "c2i": 0.0,
        "rm_C": 100.0,
        "rm_W": 66.6667,
        "right_judged": 2,
        "wrong_judged": 3,
        "delta": 16.6667,
        "verdict_rate": 83.3333,
        "problems": 2,
        "turn1_se": 12.5,
        "turn1_start": 25.0,
        "turn1_change": 12.5,
        "turn1_change_se": 37.5,
    }


def test_figures_of_other_rollouts(codec: ChatCodec) -> None:
    paths = [rollout.trajectory for rollout in scored(codec).rollouts]
    one = [paths[0]] * 4 + [paths[6]] * 4
    row = measure(one, [1.0] * 5 + [0.0] * 2 + [None], 4)
    assert (row["zero_variance"], row["revisions"], row["unchanged"], row["verdict_rate"]) == (0.5, 0, None, 100.0)
    assert measure(one, [1.0] * 7 + [None], 4)["zero_variance"] == 1.0
    assert measure(one, [1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0], 2)["zero_variance"] == 0.5
    assert turn1_by_problem([paths[0], paths[6]], 1) == [("p", 1.0), ("q", 0.0)]
    assert measure(one[:4], [1.0] * 4, 4)["turn1_se"] == 50.0  # one problem says nothing of others
    assert round(measure([*one, *[paths[6]] * 4], [1.0] * 12, 4)["turn1_se"], 3) == 33.333
    refused = [replace(path, stop="prompt-too-long") for path in one[:2]] + one[2:]
    assert measure(refused, [1.0] * 8, 4)["prompt_too_long"] == 25.0
    huge = replace(one[0], attempts=(replace(one[0].first, grade=Grade(Outcome.UNGRADABLE, method="limit")),))
    assert measure([huge, *one[1:]], [1.0] * 8, 4)["over_limits"] == 12.5
    sure = [
        replace(path, evaluations=(replace(path.evaluations[0], p_correct=p),))
        for path, p in zip(one[:2], (0.5, 1.0), strict=True)
    ]
    assert measure([*sure, *one[2:]], [1.0] * 8, 4)["p_correct"] == 0.75
    half_graded = [_with_grades(rollout, "r?") for rollout in scored(codec).rollouts[1:3]]
    row = measure([rollout.trajectory for rollout in half_graded], [None, None], 2)
    assert (row["turn1"], row["reward"]) == (None, None)  # nothing is graded at both ends


def test_the_means_of_the_parts_are_over_the_paths_that_have_them() -> None:
    parts = [
        {"correctness": 1.0, "verdict": None, "mended": None},
        {"correctness": 0.0, "verdict": 0.5, "mended": None},
    ]
    assert part_means(parts) == {"reward/correctness": 0.5, "reward/verdict": 0.5, "reward/mended": None}  # type: ignore[arg-type]
    assert part_means([{"correctness": 0.25}]) == {"reward/correctness": 0.25}


def test_a_dropped_path_is_not_called_ungradable(codec: ChatCodec) -> None:
    rollouts = scored(codec, overlong="drop")
    row = measure([rollout.trajectory for rollout in rollouts.rollouts], rollouts.rewards, 4)
    assert (row["ungradable"], row["without_reward"]) == (2, 2)


def test_two_ids_of_one_text_are_refused(codec: ChatCodec) -> None:
    with pytest.raises(InputError, match=r"^two problems have the same text and different ids; remove duplicates$"):
        RolloutFunction(GrpoRecipe(), codec, [PROBLEMS[0], replace(PROBLEMS[0], id="again")], Script(codec))


def test_real_grades_are_what_the_script_says(codec: ChatCodec) -> None:
    recipe = GrpoRecipe(max_tokens=100)
    problems = [problem for problem in PROBLEMS for _ in range(4)]
    paths = [
        rollout.trajectory for rollout in graded(roll_out(Script(codec), codec, problems, [0] * 8, recipe.sampling))
    ]
    outcomes = ["".join(attempt.grade.outcome.value[0] for attempt in path.attempts if attempt.grade) for path in paths]
    assert outcomes[:3] == ["c", "wc", "ww"]
    assert [len(path.attempts) for path in paths] == [1, 2, 2, 1, 2, 1, 1, 1]
