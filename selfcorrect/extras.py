"""What `pip install selfcorrect` leaves out: which extra brings a module, whether it is here, and how to get it.

`needs("train")` is called where a command or a class begins work that an extra makes possible. `missing` is for what
fails later: it turns "No module named 'torch'" into the same message.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from selfcorrect.errors import MissingExtraError
from selfcorrect.shipped import PACKAGE

EXTRAS = {
    "report": ("numpy", "scipy", "matplotlib", "jinja2"),
    "train": (
        "torch",
        "transformers",
        "trl",
        "datasets",
        "accelerate",
        "peft",
        "numba",
        "numpy",
        "scipy",
        "httpx2",
        "jinja2",
    ),
    "openai": ("transformers", "numpy", "scipy", "httpx2", "jinja2"),
    "vllm": ("vllm",),
    "ray": ("ray",),
    "serve": ("fastapi", "uvicorn", "prometheus_client", "httptools", "uvloop"),
    "latex": ("latex2sympy2_extended",),
    "logs": ("zstandard", "pyarrow"),
    "gguf": ("gguf",),
    "tensorboard": ("tensorboard",),
}
"""The modules of each extra of pyproject.toml. Where several bring a module, the first is named."""

ENGINE_EXTRAS = {"transformers": "train", "openai": "openai"}
"""What an engine needs before it is opened; vLLM's and Ray's say themselves what is wrong with theirs."""

BROUGHT_ALONG = {
    "markupsafe": "report",
    "pydantic": "serve",
    "starlette": "serve",
    "huggingface_hub": "train",
    "tokenizers": "train",
    "safetensors": "train",
}
"""Modules that we import and that come with the packages of an extra."""


def needs(*extras: str) -> None:
    """Raise MissingExtraError, whose one line has the install command, where a module of these extras is absent."""
    absent = {extra: [module for module in EXTRAS[extra] if find_spec(module) is None] for extra in extras}
    if wanted := [extra for extra, modules in absent.items() if modules]:
        first = absent[wanted[0]][0]
        raise MissingExtraError(f"{first} is not installed: {install_command(*wanted)}")


@contextmanager
def named_extras() -> Iterator[None]:
    """Turn a missing module of an extra into MissingExtraError, for callers of the library."""
    try:
        yield
    except ModuleNotFoundError as error:
        if message := missing(error):
            raise MissingExtraError(message) from error
        raise


def missing(error: BaseException) -> str | None:
    """Return the message for a module that an extra would have brought; None for any other error."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return None
    module = error.name.partition(".")[0]
    extra = BROUGHT_ALONG.get(module) or next((name for name, modules in EXTRAS.items() if module in modules), None)
    if extra is None or find_spec(module) is not None:  # a part of it is missing: another version, not an extra
        return None
    return f"{module} is not installed: {install_command(extra)}"


def install_command(*extras: str) -> str:
    """Return the command that adds extras to this installation.

    pip finds the installed selfcorrect and adds the packages, from wherever it was installed. Where it runs from a
    folder and is not installed at all, that folder is named.
    """
    listed = ",".join(extras)
    try:
        version("selfcorrect")
    except PackageNotFoundError:
        return f"pip install -e '{PACKAGE.resolve().parent}[{listed}]'"
    return f"pip install 'selfcorrect[{listed}]'"
