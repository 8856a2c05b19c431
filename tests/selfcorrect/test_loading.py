"""A model that cannot be loaded: the message says which fault it is, and what is near."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from selfcorrect.chat import EMBEDDED, ChatCodec, model_path
from selfcorrect.engines.local.engine import TransformersEngine
from selfcorrect.errors import ModelError
from selfcorrect.loading import near
from selfcorrect.train.common.models import load_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EMBEDDED, tmp_path / "checkpoints" / "ift"))


def truncated(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def cut_to_nothing(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def garbled(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 4000)


def wider(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["hidden_size"] *= 2
    (folder / "config.json").write_text(json.dumps(config))


def without_some(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "layers.0" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def deeper(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["num_hidden_layers"] += 1
    config.pop("layer_types", None)
    (folder / "config.json").write_text(json.dumps(config))


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def torn_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "qwen2", ')


def unknown_kind(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "no_such_kind"}')


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (truncated, "cut off or damaged"),
        (cut_to_nothing, "cut off or damaged"),
        (garbled, "cut off or damaged"),
        (wider, "other shapes than its config.json"),
        (without_some, "lacks"),
        (deeper, "lacks"),
        (without_weights, "model.safetensors"),
        (torn_config, "config.json"),
        (unknown_kind, "no_such_kind"),
    ],
)
def test_spoiled_models_are_named(folder: Path, spoil, said: str) -> None:  # type: ignore[no-untyped-def]
    spoil(folder)
    for load in (lambda: TransformersEngine.load(folder), lambda: load_model(str(folder), "sdpa")):
        with pytest.raises(ModelError) as caught:
            load()
        assert said in str(caught.value)
        assert str(folder) in str(caught.value)
        assert len(str(caught.value)) < 800


def test_whole_weights_load(folder: Path) -> None:
    assert sum(p.numel() for p in load_model(str(folder), "sdpa").parameters()) > 1_000_000
    assert torch.isfinite(next(load_model(str(folder), "sdpa").parameters())).all()


def test_a_mistyped_folder_says_what_is_near(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = folder.parent.parent
    monkeypatch.chdir(run)
    for mistyped in ("checkpoints/itf", "./checkpoints/itf", str(run / "checkpoints/itf"), "checkpoint/ift"):
        with pytest.raises(ModelError) as caught:
            ChatCodec.load(mistyped)
        assert re.match("no (model )?folder", str(caught.value))
        assert "did you mean" in str(caught.value)
        assert "checkpoints/ift" in str(caught.value)
    assert near(run / "checkpoints" / "zzzz") == f" ({run / 'checkpoints'} exists and holds ift)"
    with pytest.raises(ModelError, match="no folder 'mistyped' here"):
        ChatCodec.load("mistyped")
    with pytest.raises(ModelError, match=r"HF_HUB_OFFLINE|hub could not be reached|on the hub"):
        ChatCodec.load("owner/mistyped")


def test_folders_that_are_no_model_say_what_they_are(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"it is a run folder; its models are: .*checkpoints/ift"):
        ChatCodec.load(str(tmp_path))
    half = tmp_path / "half"
    (half / "resume").mkdir(parents=True)
    with pytest.raises(ModelError, match="has not come to its end"):
        ChatCodec.load(str(half))
    with pytest.raises(ModelError, match="this is a file"):
        model_path(str(folder / "config.json"))
