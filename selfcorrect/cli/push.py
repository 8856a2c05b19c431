"""``selfcorrect push``: a checkpoint or a data set to the Hugging Face hub, or to a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfcorrect.cli.options import AsJson
from selfcorrect.errors import InputError
from selfcorrect.extras import needs
from selfcorrect.printing import event, note, show, show_file


def push(
    what: Annotated[Path, typer.Argument(help="A checkpoint (runs/mine/checkpoints/grpo) or a data folder.")],
    repo: Annotated[str | None, typer.Argument(help="Where to on the hub: owner/name.")] = None,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Write it there, in place of the hub: a folder to be made.")
    ] = None,
    row: Annotated[
        list[Path] | None,
        typer.Option("--row", help="An evaluation of the checkpoint to publish; repeat. Default: all of its run."),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="A repository that is made here is not private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the files and the card; send nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Publish a checkpoint with its card and results, or a data set, on the Hugging Face hub or in a folder."""
    needs("train", "report")
    if (repo is None) == (folder is None):
        raise InputError("give one place: owner/name on the hub, or --folder FOLDER")
    if public and folder is not None:
        raise InputError("--public is about a repository on the hub; a folder has no such setting")
    from selfcorrect.adapters.hub import publication
    from selfcorrect.hub import push_files, write_files

    made = publication(what, repo or str(folder), row or [])
    for said in made.notes:
        note(said)
    if dry_run:
        place = "nowhere: --dry-run"
    elif folder is not None:
        place = str(write_files(made.files, folder))
    else:
        place = push_files(made.files, str(repo), made.kind, private=not public, message="selfcorrect push")
    if as_json:
        event({"kind": made.kind, "place": place, "files": sorted(made.files), "notes": list(made.notes)})
        return
    if dry_run:
        show_file("\n".join(sorted(made.files)) + "\n\n" + made.card)
    show(f"{made.kind}, {len(made.files)} files: {place}")
