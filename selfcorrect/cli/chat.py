"""``selfcorrect chat``: talk to a model in the terminal, or pipe questions through it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from selfcorrect.cli.options import EngineOption
from selfcorrect.cli.stages import needs_engine
from selfcorrect.engines import EngineRecipe
from selfcorrect.errors import InputError
from selfcorrect.extras import needs
from selfcorrect.printing import event, note, output, show
from selfcorrect.runs.recipes import build_recipe, load_recipe

if TYPE_CHECKING:
    from selfcorrect.model import SelfCorrectModel
    from selfcorrect.terminal.display import Display
    from selfcorrect.terminal.session import Session


@dataclass(frozen=True, slots=True)
class ChatRecipe:
    """Which model is asked, and how."""

    engine: EngineRecipe = field(default_factory=EngineRecipe)  # what samples; its model is MODEL of the command
    loop: dict[str, Any] = field(default_factory=dict)  # what differs from the settings of `LoopSettings`
    seed: int = 0  # of the first try of each question
    history: bool | None = None  # whether a follow-up sees the final answers before it; null: not with embedded

    def __post_init__(self) -> None:
        from selfcorrect.correction.loop import LoopSettings
        from selfcorrect.model import without_reference

        without_reference(build_recipe(LoopSettings, self.loop, where="loop"))


def chat(
    args: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL] [KEY=VALUE]...",
            help="A model folder, a hub id or embedded (default); then settings such as loop.horizon=3.",
            show_default=False,
        ),
    ] = None,
    endpoint: Annotated[list[str] | None, typer.Option(help="Ask this server, which has MODEL loaded; repeat.")] = None,
    engine: EngineOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Of piped questions: one JSON object for each.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Words and whole lines, for screen readers.")] = False,
) -> None:
    """Ask a model and watch attempt, verdict and revision arrive; /help lists the commands."""
    recipe = resolve(args or [], endpoint or [], engine)
    needs_engine(recipe.engine)
    if recipe.engine.kind == "transformers":
        needs("train")
    from selfcorrect.terminal.display import Plain, Styled
    from selfcorrect.terminal.session import Session

    display: Display = Plain() if plain or not output.is_terminal else Styled()
    is_talk = sys.stdin.isatty() and not as_json
    asked = iter(()) if is_talk else questions()  # nothing is loaded where nothing is asked
    with opened(recipe, recipe.engine.model) as model:
        session = Session(
            model,
            recipe.engine.model,
            display,
            lambda name: opened(recipe, name),
            seed=recipe.seed,
            remembers=recipe.history,
        )
        if is_talk:
            talk(session, "Question: " if plain else "ask> ")
        else:
            answer_lines(session, asked, as_json)
        if session.model is not model:
            session.model.close()


def resolve(args: list[str], endpoints: list[str], engine: str | None) -> ChatRecipe:
    """Return the settings that the words of the command give."""
    models = [word for word in args if "=" not in word]
    if len(models) > 1:
        raise InputError(f"chat takes one model, got {', '.join(models)}; settings are KEY=VALUE")
    given: dict[str, Any] = {"engine.model": models[0] if models else None, "engine.kind": engine}
    if endpoints:
        given |= {"engine.kind": engine or "openai", "engine.endpoints": endpoints}
    overrides = [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]
    return load_recipe(ChatRecipe, None, [*overrides, *(word for word in args if "=" in word)])


def opened(recipe: ChatRecipe, model: str) -> SelfCorrectModel:
    """Return the loaded model of a recipe, by name."""
    from selfcorrect.model import SelfCorrectModel

    return SelfCorrectModel.load(model, engine=recipe.engine, **recipe.loop)


def talk(session: Session, prompt: str) -> None:
    """Read questions and commands until the end of the input; Ctrl-C empties the line."""
    with suppress(ImportError):
        import readline  # noqa: F401 - gives `input` arrow keys and a history
    note(session.described())
    note("/help lists the commands; Ctrl-C stops an answer, Ctrl-D leaves")
    while not session.ended:
        try:
            line = input(prompt)
        except KeyboardInterrupt:
            show(Text("Ctrl-D leaves", "dim"))
            continue
        except EOFError:
            show("")
            return
        session.take(line)


def answer_lines(session: Session, questions: Iterator[str], as_json: bool) -> None:
    """Answer each line of standard input as a question of its own."""
    from selfcorrect.terminal.session import answered

    for question in questions:
        if as_json:
            event(answered(session.model.solve(question, seed=session.seed), session.name))
        else:
            session.question = question
            session.history = []
            session.ask()


def questions() -> Iterator[str]:
    """Return the lines of standard input that hold something, once there is one; InputError where there is none."""
    lines = _lines()
    if (first := next(lines, None)) is None:
        raise InputError(
            "standard input: expected questions in UTF-8, one a line; it ended without one. For example: "
            "echo 'What is 12 + 30?' | selfcorrect chat"
        )
    return chain([first], lines)


def _lines() -> Iterator[str]:
    try:
        for line in sys.stdin:
            if line.strip():
                yield line.strip()
    except UnicodeDecodeError as error:
        raise InputError(f"standard input: expected questions in UTF-8, one a line; {error}") from error
