"""Secrets stay out of records: the rule, the shipped recipes that it must not touch, and everything a run writes."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from selfcorrect.redaction import HIDDEN, is_secret, redacted, redacted_command, redacted_text, secrets_in
from selfcorrect.runs.folder import provenance, stage_folder
from selfcorrect.runs.recipes import load_recipe, recorded, to_yaml

ROOT = Path(__file__).parents[2]
MARKED = "MARKED-9f3a"


@dataclass(frozen=True, slots=True)
class Inner:
    endpoints: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    actor: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recipe:
    engine: Inner = field(default_factory=Inner)
    rate: float = 1.0


SECRET: list[Any] = [
    {"engine": {"endpoints": [f"http://bob:{MARKED}@h:8000/v1"]}},
    {"engine": {"endpoints": [f"https://{MARKED}@h/v1"]}},
    {"engine": {"endpoints": [f"https://bob:p@{MARKED}@h/v1"]}},
    {"engine": {"endpoints": [f"https://h/v1?api_key={MARKED}&x=1"]}},
    {"engine": {"options": {"extra": {"api_key": MARKED}}}},
    {"engine": {"options": {"extra": {"apiKey": MARKED}}}},
    {"engine": {"options": {"extra": {"API-KEY": MARKED}}}},
    {"engine": {"options": {"extra": {"user": {"password": MARKED}}}}},
    {"engine": {"options": {"extra": {"credentials": {"user": "bob", "value": [MARKED]}}}}},
    {"engine": {"options": {"extra": [{"client_secret": MARKED}]}}},
    {"engine": {"options": {"extra": {"note": f"Bearer {MARKED}"}}}},
    {"engine": {"options": {"extra": {"note": f"sk-{MARKED}-0123456789"}}}},
    {"engine": {"options": {"extra_headers": {"X-Anything": MARKED}}}},
    {"engine": {"options": {"hf_token": MARKED}}},
    {"engine": {"actor": {"runtime_env": {"env_vars": {"ANYTHING": MARKED}}}}},
    {"engine": {"actor": {"runtime_env": {"pip": [f"git+https://{MARKED}@h/x"]}}}},
]


@pytest.mark.parametrize("values", SECRET)
def test_a_secret_is_in_no_record_and_in_no_identity(values: dict[str, Any], tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "given.yaml"
    path.write_text(to_yaml_of(values))
    recipe = load_recipe(Recipe, path)
    arguments = ["selfcorrect", "gen", *flat(values)]
    monkeypatch.setattr(sys, "argv", arguments)
    assert load_recipe(Recipe, None, arguments[2:]) == recipe
    folder = tmp_path / "run"
    with stage_folder(folder, recipe):
        (folder / "made").write_text("x")
    written = "".join(file.read_text() for file in folder.rglob("*") if file.is_file())
    assert MARKED not in written + to_yaml(recipe) + str(provenance()) + str(recorded(recipe))
    assert HIDDEN in written
    assert any(MARKED in secret for secret in secrets_in(values)) or "://" in str(values)
    path.write_text(to_yaml_of(values).replace(MARKED, "MARKED-other"))
    with stage_folder(folder, load_recipe(Recipe, path)):  # another secret: the same recipe
        pass
    path.write_text(to_yaml(recipe))
    assert recorded(load_recipe(Recipe, path)) == recorded(recipe), "a record reads as the recipe that it records"


@pytest.mark.parametrize(
    "value",
    [
        {"token_ids": "required", "max_tokens": 5, "api_key_env": "OPENAI_API_KEY", "served_model": "a/b"},
        {"endpoints": ["http://localhost:8000/v1"], "stop": "a@b.c", "path": "user@host:/x"},
        {"keys": ["a"], "tokens": [1], "tokenizer": "x", "monkey": "y", "pass_rate": "0.5", "password_file": "/run/x"},
        {"priority": 3, "flag": True, "nothing": None, "key": None, "password": ""},
    ],
)
def test_what_is_no_secret_stays(value: dict[str, Any]) -> None:
    assert redacted(value) == value


@pytest.mark.parametrize("path", sorted(ROOT.glob("*/recipes/*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_are_recorded_as_they_are(path: Path) -> None:
    import yaml

    values = yaml.safe_load(path.read_text())
    assert redacted(values) == values


def test_commands_and_names() -> None:
    line = ["selfcorrect", "eval", "engine.options.extra={password: p, n: 3}", "seed=1", "odd=[", "--run", "runs/x"]
    assert " ".join(shlex.split(redacted_command(line))) == (
        "selfcorrect eval engine.options.extra={n: 3, password: '***'} seed=1 odd=[ --run runs/x"
    )
    hidden = shlex.split(redacted_command(["a.env_vars.X=1", "a.secret=[", "http://u:p@h"]))
    assert hidden == ["a.env_vars.X=***", "a.secret=***", "http://***@h"]
    assert redacted_text("see https://h/a?b=1&token=abc, and http://x") == "see https://h/a?b=1&token=***, and http://x"
    assert [is_secret(name) for name in ("HF_TOKEN", "accessKey", "AWS_SECRET_ACCESS_KEY", "x-api-key")] == [True] * 4


def to_yaml_of(values: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(values)


def flat(values: dict[str, Any], prefix: str = "") -> list[str]:
    """Return nested values as the overrides that give them."""
    import yaml

    found = []
    for key, value in values.items():
        if isinstance(value, dict) and prefix.count(".") < 1:
            found += flat(value, f"{prefix}{key}.")
        else:
            found.append(f"{prefix}{key}={yaml.safe_dump(value, default_flow_style=True, width=1000).strip()}")
    return [argument.removesuffix("\n...") for argument in found]
