"""`open_engine` and `EngineRecipe`: the kinds, what is missing, what is misspelt."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from selfcorrect.engines import EngineRecipe, SampleRequest, check_request, open_engine
from selfcorrect.errors import EngineError, MissingExtraError, RecipeError
from selfcorrect.runs.recipes import load_recipe


@pytest.mark.parametrize(("kind", "command"), [("vllm", r"selfcorrect\[vllm\]"), ("ray", r"selfcorrect\[ray\]")])
def test_a_missing_library_is_named_with_its_install_command(kind, command) -> None:
    if find_spec(kind):
        pytest.skip(f"{kind} is installed here: see test_{kind}.py")
    with pytest.raises(MissingExtraError, match=f"pip install '{command}'"):
        open_engine(EngineRecipe(kind=kind))


def test_recipes_read_the_kinds_and_count_what_is_worked_on_at_once() -> None:
    ray = load_recipe(
        EngineRecipe, None, ["kind=ray", "replicas=8", "replica=vllm", "max_batch=64", "actor.num_gpus=1"]
    )
    assert (ray.capacity, ray.actor) == (512, {"num_gpus": 1})
    servers = load_recipe(EngineRecipe, None, ["kind=openai", "endpoints=[http://a/v1,http://b/v1]", "max_batch=10"])
    assert (servers.capacity, servers.endpoints) == (20, ("http://a/v1", "http://b/v1"))
    assert EngineRecipe(max_batch=3).capacity == EngineRecipe(kind="vllm", max_batch=3).capacity == 3
    with pytest.raises(RecipeError, match=r'expected one of transformers, vllm, openai, ray; got .*did you mean "ray"'):
        load_recipe(EngineRecipe, None, ["kind=rays"])


def test_an_unknown_option_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(RecipeError, match='did you mean "max_cached_tokens"'):
        open_engine(EngineRecipe(model="/nowhere", options={"max_cached_token": 1}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt_ids": ()}, "got 0 prompt tokens"),
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"temperature": -1.0}, r"temperature=-1\.0"),
        ({"top_p": 0.0}, r"top_p=0\.0"),
        ({"top_p": 1.5}, r"top_p=1\.5"),
        ({"max_tokens": 9}, "need 11 tokens; the context of toy holds 10"),
    ],
)
def test_requests_that_cannot_be_served_are_refused(settings, message) -> None:
    fits = {"prompt_ids": (1, 2), "max_tokens": 8}
    check_request(SampleRequest(**fits), "toy", 10)
    check_request(SampleRequest(**(fits | {"max_tokens": 10**6})), "toy", None)
    with pytest.raises(EngineError, match=message):
        check_request(SampleRequest(**(fits | settings)), "toy", 10)
