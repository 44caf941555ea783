"""The command `s2f publish`: publish tables and figures of a run, so that the chapters can show them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from s2f_lib import paths
from s2f_lib.cli.common import console
from s2f_lib.errors import InputError
from s2f_lib.paths import RunPaths

_CHAPTERS = [f"{number:02d}" for number in range(1, 8)]  # `s2f pairs --publish` publishes chapter 08


def publish_command(
    profile: Annotated[
        str, typer.Option("--profile", help="Profile of the run: a name in book/profiles, or a YAML file.")
    ],
    run_dir: Annotated[
        Path | None, typer.Option(help="Folder of the run. (Default: runs/PROFILE.)", show_default=False)
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name in book/published. (Default: the profile's name.)", show_default=False),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="NN", help="Number of a chapter, such as 05. Repeatable. (Default: 01 to 07.)"),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="Key of a table or figure, such as seeds. Repeatable."),
    ] = None,
) -> None:
    """Publish the tables and figures of a run that takes too long to repeat (at most 10 MB)."""
    from s2f_lib.book.executed import find_chapters, select_chapters
    from s2f_lib.book.published import publish_run
    from s2f_lib.config import load_config

    if paths.study_folder() == paths.template_dir() != paths.checkout():
        raise InputError("not in a study folder: run `s2f new DIR`, then this command in DIR")
    config = load_config(profile)
    run = RunPaths(run_dir) if run_dir else RunPaths.of_profile(config.profile)
    chapters = select_chapters(find_chapters(), only or _CHAPTERS)
    published = publish_run(run, chapters, paths.published_dir() / (name or config.profile), keys=keep)
    size_mb = sum(path.stat().st_size for path in published.folder.rglob("*") if path.is_file()) / 1e6
    shown = ", ".join(chapter.split("_")[0] for chapter in published.chapters)
    console.print(
        f"Published in {published.folder} ({size_mb:.1f} MB); shown in chapters {shown}.", soft_wrap=True
    )
