"""Finding files, and writing them in full or not at all."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).resolve().parents[1]
SHIPPED = _PACKAGE if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent
"""The folder that holds configs/: the repository, or the installed package."""


def user_path(name: str | Path) -> Path:
    """The path of a name in which ``~`` stands for the home folder."""
    return Path(os.path.expanduser(name))


def local_path(name: str | Path) -> Path:
    """Where to read a file or folder.

    ``~`` is the home folder. What is not in the working folder is looked for in the repository, so
    that names of shipped files, such as ``configs/quickstart/hyperclip.yaml``, work from any
    folder; an installed package has these alone. What is nowhere stays as it was given.
    """
    path = user_path(name)
    may_be_shipped = SHIPPED != _PACKAGE or path.parts[:1] == ("configs",)
    if path.is_absolute() or os.path.exists(path) or not may_be_shipped:
        return path
    return SHIPPED / path if os.path.exists(SHIPPED / path) else path


def portable_name(path: Path) -> str:
    """The absolute path; of a shipped file, its name for :func:`local_path` on every machine."""
    place = path.resolve()
    if place.is_relative_to(SHIPPED / "configs"):
        name = place.relative_to(SHIPPED)
        if local_path(name).samefile(place):
            return name.as_posix()
    return os.path.abspath(path)


def local_name(name: str) -> str:
    """What may be a path, by :func:`local_path`; model names and addresses stay as they are."""
    if not name or "://" in name:
        return name
    path = local_path(name)
    return str(path) if name.startswith("~") or path.is_absolute() else name


def read_json(path: Path, what: str, **options: Any) -> Any:
    """What a file, ``what`` in messages, holds as JSON; ``options`` are those of ``json.loads``.
    FileNotFoundError without it, ValueError if it is not JSON in UTF-8.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"), **options)
    except (ValueError, RecursionError) as error:
        problem = f"{path.name} is not JSON in UTF-8 ({error}); is it cut short?"
        raise ValueError(f"{what} {str(path)!r}: {problem}") from error


def need_output_folder(folder: Path, key: str) -> None:
    """Make a folder, ``key`` in messages, and make sure that it takes files, before anything is
    computed for them; OSError for a file of that name, no right to write, or a full disk.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(2**12))
    except (OSError, ValueError) as error:
        what = f"{key}: got {str(folder)!r}, where nothing can be written"
        raise refused(error, what, ". Choose another folder") from error


def write_atomically(target: Path, write: Callable[[Path], object]) -> None:
    """Call ``write(path)`` on a temporary file near ``target``, then rename it. OSError if it
    cannot be written; what was there before stays.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # a part of the name: the temporary one, too, has to fit the file system's limit
        with tempfile.TemporaryDirectory(
            dir=target.parent, prefix=f".{target.name[:40]}.", ignore_cleanup_errors=True
        ) as folder:
            temporary = Path(folder) / "part"
            write(temporary)
            os.chmod(temporary, 0o644)
            os.replace(temporary, target)
    except (OSError, RuntimeError) as error:
        # torch.save says that a disk is full with a RuntimeError of its C++ side
        full = any(words in str(error) for words in ("inline_container", "write failed"))
        if isinstance(error, RuntimeError) and not full:
            raise
        raise refused(error, f"{str(target)!r} cannot be written") from error


def write_text(target: Path, text: str) -> None:
    """Write a text file as UTF-8, in full or not at all; see :func:`write_atomically`."""
    write_atomically(target, lambda path: path.write_text(text, encoding="utf-8"))


def refused(error: BaseException, what: str, advice: str = "") -> OSError:
    """An error of the same kind, in one line, with the system's reason."""
    kind, reason = OSError, " ".join(str(error).split())[:200]
    if isinstance(error, OSError):
        kind = type(error) if type(error).__module__ == "builtins" else OSError
        reason = error.strerror or reason
    why = f"the system refuses it ({reason})"
    if isinstance(error, FileExistsError | NotADirectoryError):
        why = "a file is in the place of a folder"
    return kind(f"{what}: {why}{advice}")
