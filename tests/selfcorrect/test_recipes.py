"""Recipes: YAML plus overrides become a checked dataclass, or an error that helps."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from selfcorrect.errors import RecipeError
from selfcorrect.runs.recipes import build_recipe, load_recipe, to_yaml


@dataclass(frozen=True, slots=True)
class Inner:
    size: int = 3
    rate: float = 1e-4


@dataclass(frozen=True, slots=True)
class Outer:
    name: str
    inner: Inner = field(default_factory=Inner)
    seeds: tuple[int, ...] = (0,)
    limit: float | None = None
    mode: Literal["fast", "slow"] = "fast"
    options: dict[str, Any] = field(default_factory=dict)
    flag: bool = False


def test_yaml_and_overrides_meet(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("name: a\ninner: {size: 5}\nseeds: [1, 2]\n")
    recipe = load_recipe(Outer, path, ["inner.rate=1e-3", "limit=2", "options.top_k=5", "flag=true", "mode=slow"])
    assert recipe == Outer("a", Inner(5, 1e-3), (1, 2), 2.0, "slow", {"top_k": 5}, True)


def test_round_trip(tmp_path: Path) -> None:
    recipe = Outer("a", Inner(7, 2e-5), (3,), None, "slow", {"x": [1]}, True)
    path = tmp_path / "r.yaml"
    path.write_text(to_yaml(recipe))
    assert load_recipe(Outer, path) == recipe


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["nmae=a"], 'did you mean "name"'),
        (["name=a", "inner.sise=3"], 'did you mean "size"'),
        (["name=a", "inner.size=big"], "expected int"),
        (["name=a", "inner.size=true"], "expected int"),
        (["name=a", "mode=fats"], 'did you mean "fast"'),
        (["name=a", "seeds=3"], "expected a list"),
        (["name=a", "inner=3"], "expected a group"),
        (["name=a", "inner.rate=x"], "expected a number"),
        (["name=a", "inner.rate=.nan"], "inner: rate: expected a number, got nan"),
        (["name=a", "inner.rate=nan"], "expected a number, got nan"),
        (["name=a", "limit=.NaN"], "limit: expected a number, got nan"),
        (["name"], "expected key=value"),
        ([], "missing name"),
        (["name=a", "name.x=3"], "not a group"),
    ],
)
def test_wrong_input_is_explained(overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message.replace("(", r"\(")):
        load_recipe(Outer, None, overrides)


def test_broken_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot read"):
        load_recipe(Outer, tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(RecipeError, match="not YAML"):
        load_recipe(Outer, tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(RecipeError, match="expected `key: value`"):
        load_recipe(Outer, tmp_path / "list.yaml")


def test_build_recipe_rejects_unknown() -> None:
    with pytest.raises(RecipeError, match="known keys: name, inner"):
        build_recipe(Outer, {"zzz": 1})


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("atempts=3", "override atempts=3: unknown key 'atempts' (did you mean \"attempts\"?)"),
        ("attempts=many", "override attempts=many: attempts: expected int, got 'many'"),
        ("engine.kind=vlm", "engine: kind: expected one of"),
        ("quota=3", "override quota=3: quota: expected a group of keys"),
        ("=3", "expected key=value"),
        ("engine.model=[", "cannot read the value of 'engine.model=['"),
    ],
)
def test_an_override_answers_for_itself_and_not_the_file(override: str, said: str) -> None:
    from selfcorrect.data_gen.recipe import GenRecipe

    shipped = Path(__file__).parents[2] / "data_gen" / "recipes" / "embedded.yaml"
    with pytest.raises(RecipeError) as caught:
        load_recipe(GenRecipe, shipped, ["seed=1", override, "prompts=0"])
    assert said in str(caught.value)
    assert "embedded.yaml" not in str(caught.value)


def test_a_file_answers_for_itself(tmp_path: Path) -> None:
    from selfcorrect.data_gen.recipe import GenRecipe

    (tmp_path / "mine.yaml").write_text("atempts: 3\n")
    with pytest.raises(RecipeError, match=r"mine\.yaml: unknown key 'atempts'"):
        load_recipe(GenRecipe, tmp_path / "mine.yaml", ["seed=1"])
