"""What the demo segments: files, folders, patterns and lists, and what their results are called."""

import contextlib
import glob
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..data import pairing
from ..data.image_files import IMAGE_SUFFIXES
from ..data.image_plugins import PLUGINS
from ..runtime.files import user_path

logger = logging.getLogger("hyperclip.demo")

PHOTO_SUFFIXES = tuple(dict.fromkeys((*IMAGE_SUFFIXES, *PLUGINS)))
"""Names of images end like this; some of them need a plug-in of Pillow, which is said then."""

VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv",
    ".3gp", ".mts", ".m2ts",
)  # fmt: skip
"""Names of videos end like this, in small or capital letters."""

PAGED_SUFFIXES = (".tif", ".tiff", ".gif", ".webp", ".avif")
"""Images of these formats may hold several pages."""

IMAGE_RESULTS = {"overlay": "{}.png", "labels": "{}_labels.png", "scores": "{}_scores.npz"}
"""The file of each kind of result of an image, by the image's name."""

FRAME_RESULTS = {"labels": "{}_labels/{:06d}.png", "scores": "{}_scores/{:06d}.npz"}
"""The file of each kind of result of a frame, by the video's name and the frame's number."""

VIDEO, TIMES = "{}.mp4", "{}_frames.csv"
"""The painted video and the table of its frames' times, by the video's name."""

PART = "{}_part.mp4"
"""The painted video, by its name, as far as it was done when somebody interrupted."""

MOST_NAMED = 20
"""Files that a line names at most."""


@dataclass(frozen=True)
class Source:
    """An image or a video to segment.

    Attributes:
        path: of the file.
        relative: its path below the folder or pattern that it was found by.
        name: what its results are called: ``relative`` without the suffix, in most cases.
        camera: the number of a webcam, which has no file; None for files.
    """

    path: Path
    relative: Path
    name: str
    camera: int | None = None

    @property
    def origin(self) -> Path | int:
        """The file, or the number of the camera."""
        return self.path if self.camera is None else self.camera

    @property
    def is_video(self) -> bool:
        """Whether it is a webcam, or its name is that of a video."""
        return self.camera is not None or self.path.suffix.lower() in VIDEO_SUFFIXES


def webcam(number: int) -> Source:
    """The webcam of a number, from 0 on; ValueError for a negative one."""
    if number < 0:
        raise ValueError(f"--webcam: got {number}, expected the number of a camera, from 0 on")
    return Source(Path("webcam"), Path("webcam"), "webcam", number)


def find_inputs(
    entries: Sequence[str], recursive: bool = False, output: Path | None = None
) -> dict[Path, Path]:
    """Images and videos of ``--input``, in order and once each, with their relative paths.

    Args:
        entries: files, folders (their images), glob patterns, or "-" for a list of files on
            standard input.
        recursive: whether folders within folders count; not ``output``, nor hidden ones.
    Raises:
        FileNotFoundError: nothing is found by an entry. ValueError: an empty list.
    """
    found: dict[Path, Path] = {}
    for entry in entries:
        if entry == "-":
            more = listed_inputs(sys.stdin.buffer.read(), recursive)
        elif os.path.isdir(path := user_path(entry)):
            more = _images_of(entry, path, recursive, output)
        else:
            more = {path: Path(path.name)} if os.path.exists(path) else _matching(path, output)
        if not more:
            deeper = "" if recursive else ", or folders within it with --recursive"
            expected = f"Expected files, folders of {PHOTO_SUFFIXES}{deeper}, or patterns"
            raise FileNotFoundError(f"--input: no image at {entry!r}. {expected}")
        for path, relative in more.items():
            found.setdefault(path, relative)
    return found


def _images_of(entry: str, folder: Path, recursive: bool, output: Path | None) -> dict[Path, Path]:
    """Images of a folder with their relative paths; its other files are logged by name."""
    if recursive:
        inside = set(_not_below(output, folder, pairing.walk(folder)))
    else:
        inside = {path for path in folder.iterdir() if not pairing.is_hidden(path.name)}
    images = [p for p in inside if p.suffix.lower() in PHOTO_SUFFIXES and p.is_file()]
    if others := sorted(inside.difference(images)):
        names = [f"{path.relative_to(folder)}{'/' * path.is_dir()}" for path in others]
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        named = ", ".join(names[:MOST_NAMED]) + more
        logger.warning("%s: left out, no images (%s): %s", entry, " ".join(PHOTO_SUFFIXES), named)
    return {path: path.relative_to(folder) for path in sorted(images)}


def _not_below(output: Path | None, root: Path, paths: Iterable[Path]) -> Iterator[Path]:
    """The paths without those in the output folder, if that lies below the root of them."""
    if output is None or root.resolve() not in output.resolve().parents:
        yield from paths
        return
    own = output.resolve()
    yield from (path for path in paths if own not in path.resolve().parents)


def _matching(pattern: Path, output: Path | None) -> dict[Path, Path]:
    """Files that a pattern matches, with their paths relative to its part without wildcards."""
    parts = pattern.parts
    fixed = 0
    while fixed < len(parts) - 1 and not set("*?[") & set(parts[fixed]):
        fixed += 1
    root = Path(*parts[:fixed])
    found: dict[Path, Path] = {}
    matches = map(Path, sorted(glob.glob(str(pattern), recursive=True)))
    for path in _not_below(output, root, matches):
        relative = path.relative_to(root)
        if path.is_file() and not any(map(pairing.is_hidden, relative.parts)):
            found[path] = relative
    return found


def listed_inputs(data: bytes, keep_folders: bool = False) -> dict[Path, Path]:
    """Files of a list, a path a line, or separated by NUL as ``find -print0`` does.

    ``keep_folders`` has results of a path below the working folder keep its folders. Raises
    FileNotFoundError for a path where no file is, and ValueError for an empty list.
    """
    data = data.removeprefix(b"\xef\xbb\xbf")  # which some programs begin UTF-8 with
    lines = data.split(b"\0") if b"\0" in data else [x.rstrip(b"\r") for x in data.split(b"\n")]
    found: dict[Path, Path] = {}
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        path = user_path(os.fsdecode(line))
        if not os.path.isfile(path):
            problem = "is a folder" if os.path.isdir(path) else "does not exist"
            what = f"--input -: line {number}: {str(path)!r} {problem}"
            raise FileNotFoundError(f"{what}; expected the path of a file")
        below = keep_folders and not path.is_absolute() and ".." not in path.parts
        found.setdefault(path, path if below else Path(path.name))
    if not found:
        raise ValueError("--input -: standard input is empty, expected paths of files, one a line")
    return found


def name_results(inputs: dict[Path, Path], output: Path, kinds: Iterable[str]) -> list[Source]:
    """Name the results of all inputs: a file's stem, or its whole name where stems repeat in a
    folder. ValueError for two of the same name, or a result that would replace an input.

    Args:
        kinds: of results, keys of ``IMAGE_RESULTS``.
    """
    kinds = tuple(kinds)
    stems = Counter((path.parent, path.stem) for path in inputs)
    originals = {path.resolve() for path in inputs}
    written: dict[Path, Path] = {}
    sources = []
    for path, relative in inputs.items():
        last = path.stem if stems[path.parent, path.stem] == 1 else path.name
        source = Source(path, relative, (relative.parent / last).as_posix())
        for target in [output / name for name in reserved_files(source, kinds)]:
            if target.resolve() in originals:
                what = f"{target} is an input and would be replaced"
                raise ValueError(f"--output: {what}. Choose another folder")
            if target in written:
                what = f"{written[target]} and {path} would both be written to {target}"
                raise ValueError(f"--input: {what}. Rename one, or keep folders by --recursive")
            written[target] = path
        sources.append(source)
    _check_frame_folders(sources, output, [*written, *originals])
    return sources


def _check_frame_folders(sources: list[Source], output: Path, others: list[Path]) -> None:
    """ValueError for inputs or results of others in a folder of a video's frames."""
    videos = [source for source in sources if source.is_video]
    taken = {path.parent.resolve(): path for path in others} if videos else {}
    for source in videos:
        for result in FRAME_RESULTS.values():
            folder = (output / result.format(source.name, 0)).parent
            if (place := folder.resolve()) in taken:
                what = f"{taken[place]} would be among the frames of {source.path} in {folder}"
                raise ValueError(f"--input: {what}. Rename one, or choose another --output")


def result_files(source: Source, kinds: Iterable[str]) -> list[str]:
    """Files of the results that are there when a source is done, relative to the output folder."""
    if not source.is_video:
        return [IMAGE_RESULTS[kind].format(source.name) for kind in kinds]
    ends = [VIDEO, TIMES] if "overlay" in kinds else [TIMES]
    return [end.format(source.name) for end in ends]


def reserved_files(source: Source, kinds: Iterable[str]) -> list[str]:
    """:func:`result_files`, and for a video what is left of it after an interruption."""
    return result_files(source, kinds) + [PART.format(source.name)] * source.is_video


def remark_pages(path: Path) -> None:
    """Log that an image has more pages than the first, which is segmented."""
    if path.suffix.lower() not in PAGED_SUFFIXES:
        return
    with contextlib.suppress(Exception):  # of any kind: a later page may be damaged
        with Image.open(path) as image:
            if (pages := getattr(image, "n_frames", 1)) > 1:
                logger.warning("%s: the first of its %d pages is segmented", path, pages)
