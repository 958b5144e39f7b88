"""What writes the answers of a run in one format."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from .answer import Answer
from .journal import Journal
from .limits import NOT_PLAIN


@dataclass(frozen=True)
class Run:
    """What the results of a run share: the folder, the names of the classes, which regions are
    listed (see :meth:`Answer.regions`), and any other ``settings``, values of JSON, that a run has
    to repeat to go on.
    """

    folder: Path
    names: Sequence[str]
    instances: bool = False
    smallest: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)
    resume: bool = False


class Writer(ABC):
    """Writes one format of a run: a file of all images, files of each, or both.

    ``.formats/FORMAT.jsonl`` in the folder notes what was written, see :class:`Journal`; with it
    another run goes on, also after one that was killed.

    Raises:
        ValueError: the folder's results are of other names or settings, if the run resumes.
    """

    format: ClassVar[str]
    """Its name for ``--format``."""
    is_text: ClassVar[bool] = False
    """Whether it is plain text, which cannot hold every file's name."""
    checks: ClassVar[tuple[Callable[[Sequence[str]], None], ...]] = ()
    """ValueError for names of classes, or a number of them, that the format cannot hold."""

    def __init__(self, run: Run) -> None:
        self.run = run
        same = {"names": list(run.names), "instances": run.instances, "smallest": run.smallest}
        file = run.folder / ".formats" / f"{self.format}.jsonl"
        what = f"--format {self.format}"
        self.journal = Journal(what, file, {**same, **run.settings}, run.resume)

    def has(self, name: str) -> bool:
        """Whether an image was done, now or by the run that goes on, and its files are there."""
        return name in self.journal and all(path.is_file() for path in self.files(name))

    def add(self, name: str, file_name: str, answer: Answer) -> None:
        """Take the answer of an image, whose results are called ``name``, in place of an earlier
        one; OSError if it cannot be written, or if files cannot hold these names.
        """
        if list(answer.names) != list(self.run.names):
            got = f"got an answer of other names, {list(answer.names)[:3]}…"
            raise ValueError(f"{name}: {got}, expected {list(self.run.names)[:3]}…")
        if self.is_text and NOT_PLAIN.search(name + file_name):
            raise OSError(f"{self.format} cannot hold the file name {file_name!r}. Rename it")
        self.journal.start()  # before any file of an earlier run is replaced
        self.journal.add(name, self.entry(name, file_name, answer))

    def close(self) -> None:
        """Write what is about all images, in full or not at all. A run may do so several times."""
        self.journal.start()
        self.write_all()

    @abstractmethod
    def entry(self, name: str, file_name: str, answer: Answer) -> Any:
        """Write the files of an image, and return what :meth:`write_all` needs of it, as JSON."""

    @abstractmethod
    def write_all(self) -> None:
        """Write the files of all images."""

    def files(self, name: str) -> list[Path]:
        """The files of an image."""
        return []
