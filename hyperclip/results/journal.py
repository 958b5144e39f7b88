"""What was written in a format, so that a run can go on: a file with a line for each image."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..runtime.files import write_text


class Journal:
    """A file whose first line holds the settings of the run, and each other line the ``name`` and
    the ``entry`` of an image, both as JSON. A line that was cut short, as when the machine stopped,
    does not count. The file is made by the first :meth:`add`.

    Args:
        what: names the format in messages.
        resume: keep the images of the file, if there is one.

    Raises:
        ValueError: the file is of other settings. OSError: it cannot be read.
    """

    def __init__(self, what: str, file: Path, settings: Mapping[str, Any], resume: bool) -> None:
        self.what, self.file = what, file
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self.started = False
        self._places: dict[str, int] = {}
        if resume and file.exists():
            self._read()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def names(self) -> list[str]:
        """The names of the images, in the order in which they came."""
        return list(self._places)

    def entries(self) -> Iterator[Any]:
        """Their entries, one at a time from the file."""
        if not self._places:
            return
        with self.file.open("rb") as file:
            for place in self._places.values():
                file.seek(place)
                yield json.loads(file.readline())["entry"]

    def start(self) -> None:
        """Make the file anew, unless it is of this run or continued."""
        if not self.started:
            write_text(self.file, json.dumps({"settings": self.settings}) + "\n")
            self.started = True

    def add(self, name: str, entry: Any) -> None:
        """Note an image, in place of an earlier entry of that name; OSError if it cannot be."""
        self.start()
        line = json.dumps({"name": name, "entry": entry}).encode("ascii")
        with self.file.open("ab") as file:
            place = file.tell() + 1
            file.write(b"\n" + line + b"\n")  # the first ends a line that was cut short
        self._places[name] = place

    def _read(self) -> None:
        place = 0
        with self.file.open("rb") as file:
            for line in file:
                known = _parsed(line)
                if "settings" in known:
                    self._need_same(known["settings"])
                    self.started = True
                elif self.started and "name" in known:
                    self._places[known["name"]] = place
                place += len(line)

    def _need_same(self, earlier: Mapping[str, Any]) -> None:
        for key in {**self.settings, **earlier}:
            got, expected = earlier.get(key), self.settings.get(key)
            if got != expected:
                raise ValueError(
                    f"{self.what}: the results in {str(self.file.parents[1])!r} are of other "
                    f"{key}: got {_short(got)}, expected {_short(expected)}. Choose another output "
                    "folder, or start anew"
                )


def _parsed(line: bytes) -> dict[str, Any]:
    """The JSON object of a line; empty for a line that is none."""
    try:
        known = json.loads(line)
    except ValueError:
        return {}
    return known if isinstance(known, dict) else {}


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}…"
