"""Why a model cannot be loaded, in one message: no such folder, no model in it, damaged weights, other shapes, no hub.

`model_loading` stands around what transformers, safetensors and tokenizers do: each has errors of its own, and none
says which of these it is.
"""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from selfcorrect.errors import MissingExtraError, ModelError, SelfCorrectError
from selfcorrect.explained import causes, explained_memory, first_line
from selfcorrect.extras import missing, named_extras
from selfcorrect.shipped import PACKAGE

SHIPPED = {name: PACKAGE / "assets" / name for name in ("embedded", "embedded-1")}
"""Model folders that come with the package, by name; ``embedded-1`` is the embedded model of version 0.1."""

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
    "tekken.json",
)
_DAMAGED = re.compile(
    r"SafetensorError|HeaderTooLarge|InvalidHeader|MetadataIncompleteBuffer|incomplete metadata|not fully covered"
    r"|UnpicklingError|PytorchStreamReader|unexpected EOF|file in archive is not"
)
_SHAPES = re.compile(r"size mismatch|mismatched|ignore_mismatched_sizes|copying a param with shape|newly initialized")
_NO_HUB = re.compile(
    r"OfflineModeIsEnabled|offline|LocalEntryNotFound|couldn't connect|Connect|Timeout|resolve host", re.I
)
_FORBIDDEN = re.compile(r"gated|401|403|restricted", re.I)


@cache
@named_extras()
def without_a_hub() -> bool:
    """Return whether the hub's name cannot be looked up; libraries are then told so, and stop trying for a minute.

    What the hub's cache holds is still found. Behind a proxy nothing is looked up, and nothing changes.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return True
    host = urlsplit(constants.ENDPOINT).hostname
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")) or not host:
        return False
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        constants.HF_HUB_OFFLINE = True
        return True
    return False


@contextmanager
def model_loading(model: str, what: str = "a model") -> Iterator[None]:
    """Turn whatever fails inside into one ModelError about ``model``; ``what`` was to be read from it."""
    try:
        if model not in SHIPPED and not Path(model).expanduser().is_dir():
            without_a_hub()
        with _whole_weights():
            yield
    except SelfCorrectError:
        raise
    except Exception as error:
        if absent := missing(error):
            raise MissingExtraError(absent) from error
        raise ModelError(why(model, error, what)) from error


@contextmanager
def _whole_weights() -> Iterator[None]:
    """Keep transformers from spreading what is loaded inside over the processes.

    It does so with every model, an engine's too, from the moment that a trainer has asked DeepSpeed for ZeRO-3.
    """
    deepspeed: Any = sys.modules.get("transformers.integrations.deepspeed")
    if deepspeed is None:
        yield
        return
    asked = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = asked


def why(model: str, error: BaseException, what: str) -> str:
    """Return why ``what`` could not be read from a model folder or hub name, and what to do."""
    if memory := explained_memory(error):
        return f"cannot load {model!r}: {memory}"
    folder = SHIPPED.get(model) or Path(model).expanduser()
    said = " ".join(f"{type(cause).__name__}: {cause}" for cause in causes(error))
    if not folder.is_dir():
        return f"no folder {model!r} here{near(folder)}, and {_of_the_hub(said, error)}"
    head = f"cannot load {what} from {model!r}"
    if not (folder / "config.json").is_file():
        return f"{head}: {not_a_model(folder)}"
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        return (
            f"{head}: it has weights and no tokenizer ({', '.join(_TOKENIZER_FILES[:2])}, ...); copy the tokenizer's "
            "files there from the model that it was trained from"
        )
    if _DAMAGED.search(said):
        return (
            f"{head}: its weights are cut off or damaged ({_sizes(folder)}): {first_line(error)}; copy or make it again"
        )
    if _SHAPES.search(said):
        return f"{head}: its weights have other shapes than its config.json says: {first_line(error)}"
    return f"{head}: {first_line(error)}"


def refuse_random_weights(model: str, found: Mapping[str, Any]) -> None:
    """Raise ModelError where weights were not in the files: transformers fills them in at random."""
    if missing := sorted(found.get("missing_keys") or ()):
        listed = ", ".join(missing[:4]) + (", ..." if len(missing) > 4 else "")
        raise ModelError(
            f"{model!r} lacks {len(missing)} of its weights ({listed}), which would start at random: a file of it is "
            "missing or incomplete; copy or make it again"
        )


def no_folder(model: str) -> ModelError:
    """Return the error for a path at which there is no model folder; it names what is near."""
    folder = Path(model).expanduser()
    if folder.is_file():
        return ModelError(f"no model folder at {model!r}: this is a file; give the folder that holds it")
    return ModelError(
        f"no model folder at {model!r}{near(folder)}; give a folder with config.json, a hub id, or 'embedded'"
    )


def near(folder: Path) -> str:
    """Return ``' (did you mean "…"?)'``, or what is in the deepest folder of the path that exists; else nothing."""
    place, missing = folder, ""
    while not place.is_dir() and place != place.parent:
        missing, place = place.name, place.parent
    if not missing:
        return ""
    found = sorted(entry.name for entry in place.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if close := get_close_matches(missing, found, n=1):
        return f' (did you mean "{place / close[0] / folder.relative_to(place / missing)}"?)'
    if place in (Path(), Path("/")):
        return ""
    listed = ", ".join(found[:8]) + (", ..." if len(found) > 8 else "")
    return f" ({place} exists and holds {listed or 'no folder'})"


def not_a_model(folder: Path) -> str:
    """Return what a folder without config.json is instead of a model folder."""
    if (folder / "checkpoints").is_dir():
        made = sorted(path.parent for path in folder.glob("checkpoints/*/config.json"))
        return f"it is a run folder; its models are: {', '.join(map(str, made)) or 'none yet'}"
    if (folder / "resume").is_dir() or (folder / "recipe.yaml").is_file():
        return "its training has not come to its end: run the same training command again"
    if (folder / "adapter_config.json").is_file():
        return "it holds a LoRA adapter alone; give the folder of the merged model"
    held = sorted(path.name for path in folder.iterdir())
    return f"no config.json there; it holds {', '.join(held[:8]) or 'nothing'}"


def _of_the_hub(said: str, error: BaseException) -> str:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return "the hub is not asked, for HF_HUB_OFFLINE is set; its cache does not hold that name"
    if _FORBIDDEN.search(said):
        return "the hub does not give that name to you: ask for access there, then `hf auth login`"
    if _NO_HUB.search(said):
        return "the hub could not be reached: give a folder, or go online"
    return f"as a name on the hub it cannot be read: {first_line(error)}"


def _sizes(folder: Path) -> str:
    weights = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
    return ", ".join(f"{path.name} of {path.stat().st_size:,} bytes" for path in sorted(weights)) or "no weights file"
