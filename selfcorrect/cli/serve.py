"""``selfcorrect serve``: a model behind OpenAI's HTTP interface, and a page."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selfcorrect.cli.options import EngineOption
from selfcorrect.cli.stages import needs_engine
from selfcorrect.errors import InputError
from selfcorrect.extras import needs
from selfcorrect.runs.recipes import load_recipe

if TYPE_CHECKING:
    from selfcorrect.serving.settings import ServeRecipe
    from selfcorrect.serving.sources import Source


def serve(
    args: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL] [KEY=VALUE]...",
            help="A model folder, a hub id or embedded (default); then settings such as loop.horizon=3.",
            show_default=False,
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Where to listen; default 127.0.0.1, this machine alone.")] = None,
    port: Annotated[int | None, typer.Option(help="Default 8000; 0: one that is free.")] = None,
    name: Annotated[str | None, typer.Option(help="The model's name for clients.")] = None,
    endpoint: Annotated[
        list[str] | None,
        typer.Option(help="Stand before this OpenAI-compatible server; repeat. With MODEL: its tokens are read, too."),
    ] = None,
    key_file: Annotated[str | None, typer.Option(help="A file of API keys, one a line.")] = None,
    cors: Annotated[list[str] | None, typer.Option(help="An origin whose pages may ask; repeat.")] = None,
    engine: EngineOption = None,
) -> None:
    """Serve the correction loop to any OpenAI client: chat completions, responses, a page at /."""
    needs("serve")
    flags = {"host": host, "port": port, "name": name, "key_file": key_file, "engine.kind": engine}
    recipe = resolve(args or [], flags, endpoint or [], cors or [])
    from selfcorrect.serving import run

    run.serve(recipe, lambda: open_source(recipe))


def resolve(args: list[str], flags: dict[str, str | int | None], endpoints: list[str], cors: list[str]) -> ServeRecipe:
    """Return the settings that the words of the command give; flags are short for ``key=value``.

    An endpoint alone is asked by messages; with a model, whose tokenizer is here, by token ids.
    """
    from selfcorrect.serving.settings import ServeRecipe

    models = [word for word in args if "=" not in word]
    if len(models) > 1:
        raise InputError(f"serve takes one model, got {', '.join(models)}; settings are KEY=VALUE")
    given: dict[str, Any] = flags | {"engine.model": models[0] if models else None, "cors": cors or None}
    if endpoints and models:
        given |= {"engine.kind": "openai", "engine.endpoints": endpoints}
    elif endpoints:
        given["upstream.endpoints"] = endpoints
    overrides = [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]
    return load_recipe(ServeRecipe, None, [*overrides, *(word for word in args if "=" in word)])


def open_source(recipe: ServeRecipe) -> Source:
    """Return the loaded model of a recipe, or what stands before its endpoints."""
    if recipe.upstream.endpoints:
        return open_proxy(recipe)
    from selfcorrect.model import SelfCorrectModel
    from selfcorrect.serving.sources import ModelSource

    needs_engine(recipe.engine)
    if recipe.engine.kind == "transformers":
        needs("train")
    model = SelfCorrectModel.load(
        recipe.engine.model, engine=recipe.engine, own_process=recipe.own_process, **recipe.loop
    )
    return ModelSource(model, recipe.engine.model)


def open_proxy(recipe: ServeRecipe) -> Source:
    """Return a source before endpoints, which knows the model's name."""
    needs("openai")
    from selfcorrect.serving.messages import open_endpoints

    return open_endpoints(recipe.upstream, recipe.settings())
