"""A directory that slabs are written to: what may be in it, the room it needs, the small files beside the slabs."""

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tpi_mpi.common.errors import UserError
from tpi_mpi.common.files import replace_file
from tpi_mpi.common.units import format_size
from tpi_mpi.tokenizer.files import TOKENIZER_FILES
from tpi_mpi.weights.slabs.directory import DRAFT, MANIFEST, has_draft

JOURNAL = "split.journal"
"""The file in a directory whose split was interrupted."""

SMALL_FILES = ("config.json", "generation_config.json", *TOKENIZER_FILES)
"""What a run needs besides the slabs and their manifest; with these, it does not need the checkpoint."""


def prepare_for_slabs(target: Path, force: bool) -> None:
    """Makes the directory. Raises UserError if it holds anything but an interrupted split.

    force: allows for other files, but for a checkpoint, and replaces slabs, their draft and their small files.
    """
    _make_empty(target, force)
    if any(target.glob("*.safetensors")):
        raise UserError(f"{target} holds a checkpoint, whose small files would be replaced; name another directory")
    if force:
        _remove_slabs(target)
        remove_draft(target)


def prepare_for_checkpoint(target: Path, force: bool) -> None:
    """Makes the directory. Raises UserError if it holds anything, unless ``force``."""
    _make_empty(target, force)


def prepare_for_scatter(target: Path) -> None:
    """Makes the directory. Raises UserError if it holds anything but slabs, or if others could change them."""
    _make(target)
    _check_ownership(target)
    names = {path.name for path in target.iterdir()}
    if JOURNAL in names:
        raise UserError(f"{target} holds an interrupted split; complete it, or name another directory")
    visible = [name for name in names if not name.startswith(".") and name != DRAFT]
    if visible and not any(name == MANIFEST or name.endswith(".h5") for name in visible):
        raise UserError(f"{target} is not empty and holds no slabs; name another directory")


def remove_draft(target: Path) -> None:
    """Removes the draft in a directory of slabs, complete or not, its manifest first; other files in it stay.

    Several processes may do so at once.
    """
    if not has_draft(target):
        return
    draft = target / DRAFT
    for pattern in (MANIFEST, JOURNAL, "*rank[0-9]*.h5*", *SMALL_FILES):
        for path in draft.glob(pattern):
            path.unlink(missing_ok=True)
    with suppress(OSError):  # which still holds something, or is a link
        draft.rmdir()


def check_room(target: Path, needed: int, free: int) -> None:
    """Raises UserError if the directory's disk has fewer than the ``needed`` bytes ``free``."""
    if needed > free:
        raise UserError(
            f"the slabs need {format_size(needed)}, but the disk of {target} has only {format_size(free)} left; "
            "free some, or name a directory on another disk"
        )


def read_small_files(source: Path) -> dict[str, bytes]:
    """The small files that a checkpoint or a directory of slabs has, by name. Raises UserError if one is unreadable."""
    present = [name for name in SMALL_FILES if (source / name).is_file()]
    try:
        return {name: (source / name).read_bytes() for name in present}
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}") from None


def write_small_files(target: Path, files: Mapping[str, bytes], writer: str = "") -> None:
    """Writes these small files to the directory and removes all others, such as another model's chat template.

    writer: a name of its own for each of several processes that may do so at once.
    Raises UserError if the directory cannot be written to.
    """
    try:
        for name in SMALL_FILES:
            if name not in files:
                (target / name).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{error.filename} cannot be removed: {error.strerror}; name another directory") from None
    for name, content in files.items():
        if not _holds(target / name, content):
            replace_file(target / name, content, writer)


def _make_empty(target: Path, force: bool) -> None:
    _make(target)
    if any(target.iterdir()) and not (target / JOURNAL).exists() and not force:
        raise UserError(f"{target} is not empty; name another directory, or give --force to replace the slabs in it")


def _make(target: Path) -> None:
    """Makes the directory and those above it; the umask cannot let others write to it."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.mkdir(mode=0o755, exist_ok=True)
        next(target.iterdir(), None)
    except OSError as error:
        raise UserError(f"{target} cannot be used as a directory ({error.strerror}); name another one") from None


def _check_ownership(target: Path) -> None:
    """Checks a link as well as what it leads to: whoever owns the link decides where it leads."""
    for found in (os.lstat(target), os.stat(target)):
        if found.st_uid != os.geteuid():
            raise UserError(f"{target} belongs to another user (number {found.st_uid}); name a directory of your own")
    if found.st_mode & stat.S_IWOTH or (found.st_mode & stat.S_IWGRP and not _is_private(found.st_gid)):
        raise UserError(
            f"others may write to {target} (mode {stat.S_IMODE(found.st_mode):o}); chmod go-w it, or name another one"
        )


def _is_private(group: int) -> bool:
    """Whether this is the group that many systems create for each user alone."""
    import grp
    import pwd

    try:
        user, entry = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(group)
    except KeyError:
        return False
    return entry.gr_name == user and set(entry.gr_mem) <= {user}


def _remove_slabs(target: Path) -> None:
    """Removes what an earlier split wrote, its manifest first, so that it never looks whole."""
    for pattern in (MANIFEST, "rank[0-9]*.h5"):
        for path in sorted(target.glob(pattern)):
            path.unlink()


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except OSError:
        return False
