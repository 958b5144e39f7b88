"""Finding files, and writing them in full or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
SHIPPED = _PACKAGE if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent
"""The folder that holds configs/: the repository, or the package where it is installed from a
wheel.
"""

NAME_PART = 40
"""Letters of a file's name that are repeated in the name of its temporary file: both have to fit a
file system's limit.
"""


def user_path(name: str | Path) -> Path:
    """The path of a name in which ``~`` stands for the home folder."""
    return Path(os.path.expanduser(name))


def local_path(name: str | Path) -> Path:
    """Where to read a file or folder.

    ``~`` is the home folder. What is not there in the working folder is looked for in the
    repository, so that the names of shipped files, such as ``configs/quickstart/hyperclip.yaml``,
    work from any folder; in an installed package only they are there. What is nowhere stays as it
    was given.
    """
    path = user_path(name)
    if (
        path.is_absolute()
        or _exists(path)
        or (SHIPPED == _PACKAGE and path.parts[:1] != ("configs",))
    ):
        return path
    shipped = SHIPPED / path
    return shipped if _exists(shipped) else path


def portable_name(path: Path) -> str:
    """The absolute path; of what is shipped, the name by which :func:`local_path` finds it on every
    machine.
    """
    place = path.resolve()
    if place.is_relative_to(SHIPPED / "configs"):
        name = place.relative_to(SHIPPED)
        if local_path(name).samefile(place):
            return name.as_posix()
    return os.path.abspath(path)


def local_name(name: str) -> str:
    """A name that may be a path, or something else such as a model's name: :func:`local_path` where
    that changes it.
    """
    if not name or "://" in name:
        return name
    path = local_path(name)
    return str(path) if name.startswith("~") or path.is_absolute() else name


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, or no name of a file
        return False


def need_output_folder(folder: Path, key: str) -> None:
    """Make a folder, and make sure that files can be written there: before anything is computed for
    them.

    Args:
        key: what messages call the folder.
    Raises:
        OSError: a file of that name, a place without the right to write, a full disk.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(2**12))
    except (OSError, ValueError) as error:
        raise _same_kind(error)(
            f"{key}: got {str(folder)!r}, where nothing can be written: {_refusal(error)}. Choose "
            "another folder"
        ) from error


def write_atomically(target: Path, write: Callable[[Path], object]) -> None:
    """Call ``write(path)`` on a temporary file next to ``target``, then rename it.

    Raises:
        OSError: the file cannot be written; what was there before stays.
    """
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:NAME_PART]}.")
        temporary = Path(name)
        os.close(handle)
        write(temporary)
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        # torch.save says that a disk is full with a RuntimeError of its C++ side
        if isinstance(error, OSError) or (
            isinstance(error, RuntimeError) and "write" in str(error).lower()
        ):
            raise _same_kind(error)(
                f"{str(target)!r} cannot be written: {_refusal(error)}"
            ) from error
        raise


def _same_kind(error: Exception) -> type[OSError]:
    return (
        type(error)
        if isinstance(error, OSError) and type(error).__module__ == "builtins"
        else OSError
    )


def _refusal(error: Exception) -> str:
    if isinstance(error, FileExistsError | NotADirectoryError):
        return "a file is in the place of a folder"
    reason = (isinstance(error, OSError) and error.strerror) or " ".join(str(error).split())[:200]
    return f"the system refuses it ({reason})"
