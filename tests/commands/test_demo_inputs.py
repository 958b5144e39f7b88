"""What the demo takes for an input, and what it calls the results."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hyperclip.commands.demo_inputs import (
    Source,
    find_inputs,
    listed_inputs,
    name_results,
    remark_pages,
    webcam,
)
from PIL import Image

KINDS = ("overlay", "labels")


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def names_of(inputs, output):
    return [source.name for source in name_results(inputs, output, KINDS)]


def test_folders_within_folders_keep_their_names(tmp_path, caplog):
    hidden = (".b.png", "x/.cache/c.png", "@eaDir/d.png", "x/._a.jpg")
    touch(tmp_path, "a.jpg", "x/a.jpg", "x/y z/ü.PNG", "y/a.jpg", "y/a.png", "notes.txt", *hidden)
    found = find_inputs([str(tmp_path)], recursive=True)
    assert names_of(found, tmp_path / "out") == ["a", "x/a", "x/y z/ü", "y/a.jpg", "y/a.png"]
    assert "notes.txt" in caplog.text and not any(name in caplog.text for name in hidden)
    assert list(find_inputs([str(tmp_path)])) == [tmp_path / "a.jpg"]
    assert "x/, y/" in caplog.text


def test_a_folder_whose_images_lie_deeper(tmp_path):
    touch(tmp_path, "x/a.jpg")
    with pytest.raises(FileNotFoundError, match="no image at .*or folders within it with --recurs"):
        find_inputs([str(tmp_path)])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no image at .*empty'. Expected files, folders"):
        find_inputs([str(tmp_path / "empty")], recursive=True)


def test_links_in_circles(tmp_path):
    touch(tmp_path, "in/a.jpg", "in/x/b.jpg", "beside/c.jpg")
    os.symlink("..", tmp_path / "in/x/up")
    os.symlink(".", tmp_path / "in/self")
    os.symlink("../beside", tmp_path / "in/beside")
    os.symlink("../in", tmp_path / "beside/back")
    os.symlink("nowhere.jpg", tmp_path / "in/broken.jpg")
    found = find_inputs([str(tmp_path / "in")], recursive=True)
    assert [path.as_posix() for path in found.values()] == ["a.jpg", "beside/c.jpg", "x/b.jpg"]


def test_results_within_the_input_are_no_input(tmp_path):
    touch(tmp_path, "a.jpg", "out/a.png", "out/x/b.png", "x/b.jpg")
    found = find_inputs([str(tmp_path)], recursive=True, output=tmp_path / "x/../out")
    assert [path.name for path in found] == ["a.jpg", "b.jpg"]
    for pattern in ("**", "**/*.[jp][pn]g"):
        matching = find_inputs([str(tmp_path / pattern)], output=tmp_path / "out")
        assert [path.name for path in matching] == ["a.jpg", "b.jpg"]
    for output in (tmp_path, tmp_path.parent):  # what is around the input hides nothing of it
        assert len(find_inputs([str(tmp_path)], recursive=True, output=output)) == 4


def test_patterns_keep_folders_below_their_fixed_part(tmp_path, monkeypatch):
    touch(tmp_path, "p/a.jpg", "p/x/a.jpg", "p/x/y/a.jpg", "p/x/.h/b.jpg", "p/@eaDir/c.jpg")
    for pattern, expected in {
        "p/*.jpg": ["a"],
        "p/*/*.jpg": ["x/a"],
        "p/**/*.jpg": ["a", "x/a", "x/y/a"],
        "p/**": ["a", "x/a", "x/y/a"],
        "*/x/a.*": ["p/x/a"],
    }.items():
        monkeypatch.chdir(tmp_path)
        assert names_of(find_inputs([pattern]), Path("out")) == expected, pattern
        whole = find_inputs([str(tmp_path / pattern)])
        assert names_of(whole, tmp_path / "out") == expected
    touch(tmp_path, "q[1].jpg")
    assert list(find_inputs(["q[1].jpg", "./q[1].jpg"])) == [Path("q[1].jpg")]
    for pattern in ("p/none.jpg", "none", "p/*.png", "nowhere/**", "p/[", "x" * 300 + "*"):
        with pytest.raises(FileNotFoundError, match="--input: no image at"):
            find_inputs([pattern])


def test_a_list_of_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "a.jpg", "x/b c.jpg", "x/ü.jpg", " d .jpg")
    lines = ["a.jpg", "", "x/b c.jpg", "x/ü.jpg", " d .jpg", "a.jpg"]
    paths = [Path(line) for line in ("a.jpg", "x/b c.jpg", "x/ü.jpg", " d .jpg")]
    for data in ("\n".join(lines), "\ufeff" + "\r\n".join(lines) + "\r\n", "\0".join(lines)):
        assert list(listed_inputs(data.encode())) == paths, data
    inputs = SimpleNamespace(buffer=io.BytesIO("\n".join(lines).encode()))
    monkeypatch.setattr(sys, "stdin", inputs)
    assert list(find_inputs(["x/ü.jpg", "-"])) == [paths[2], paths[0], paths[1], paths[3]]


def test_names_with_line_ends_and_of_other_encodings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (b"two\nlines.jpg", b"caf\xe9.jpg"):
        with open(name, "wb"):
            pass
    found = listed_inputs(b"two\nlines.jpg\0caf\xe9.jpg\0")
    assert [os.fsencode(path) for path in found] == [b"two\nlines.jpg", b"caf\xe9.jpg"]


def test_folders_of_a_list(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "x/a.jpg", "y/a.jpg")
    data = b"x/a.jpg\n./y/a.jpg\n"
    with pytest.raises(ValueError, match="would both be written to .*keep folders by --recursive"):
        names_of(listed_inputs(data), Path("out"))
    assert names_of(listed_inputs(data, True), Path("out")) == ["x/a", "y/a"]
    apart = f"x/../y/a.jpg\n{tmp_path}/x/a.jpg".encode()
    assert set(map(str, listed_inputs(apart, True).values())) == {"a.jpg"}


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"", ValueError, "--input -: standard input is empty, expected paths"),
        (b"\n\r\n\n", ValueError, "--input -: standard input is empty"),
        (b"\0\0", ValueError, "--input -: standard input is empty"),
        (b"a.jpg\n\nb.jpg\n", FileNotFoundError, "line 3: 'b.jpg' does not exist; expected the"),
        (b"a.jpg\nx\n", FileNotFoundError, "line 2: 'x' is a folder; expected the path of a file"),
        (b"x" * 5000, FileNotFoundError, "line 1: .* does not exist"),
        (b"*.jpg\n", FileNotFoundError, "line 1: '.*jpg' does not exist"),
    ],
)
def test_lists_that_are_wrong(tmp_path, monkeypatch, data, error, message):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "a.jpg", "x/c.jpg")
    with pytest.raises(error, match=message):
        listed_inputs(data)


def test_names_that_clash(tmp_path):
    touch(tmp_path, "one/x/a.jpg", "two/x/a.jpg", "clip.mp4", "clip.MOV", "clip.jpg")
    folders = [str(tmp_path / "one"), str(tmp_path / "two")]
    with pytest.raises(ValueError, match="one/x/a.jpg and .*two/x/a.jpg would both be written"):
        names_of(find_inputs(folders, recursive=True), tmp_path / "out")
    clips = {tmp_path / name: Path(name) for name in ("clip.mp4", "clip.MOV", "clip.jpg")}
    assert names_of(clips, tmp_path / "out") == ["clip.mp4", "clip.MOV", "clip.jpg"]
    one = {tmp_path / "clip.mp4": Path("clip.mp4")}
    with pytest.raises(ValueError, match="clip.mp4 is an input .*would be replaced"):
        names_of(one, tmp_path)


@pytest.mark.parametrize(
    ("first", "second", "output"),
    [
        ("clip.mp4", "clip_part.mp4", "out"),  # what is left of the one after an interruption
        ("clip.mp4", "clip_labels/000000.png", "out"),
        ("clip.mp4", "clip_scores/a.jpg", "out"),
        ("in/clip.mp4", "clip_labels/a.jpg", "."),
    ],
)
def test_names_that_clash_with_what_a_video_writes(tmp_path, first, second, output):
    touch(tmp_path, first, second)
    inputs = {tmp_path / first: Path(Path(first).name), tmp_path / second: Path(second)}
    with pytest.raises(ValueError, match="would be among the frames of|would both be written to"):
        names_of(inputs, tmp_path / output)


def test_what_counts_as_a_video(tmp_path, caplog):
    touch(tmp_path, "a.jpg", "b.mp4", "c.MKV")
    (image,) = find_inputs([str(tmp_path)])
    assert image.name == "a.jpg" and "b.mp4, c.MKV" in caplog.text
    found = find_inputs([str(tmp_path / name) for name in ("a.jpg", "b.mp4", "c.MKV")])
    sources = name_results(found, tmp_path / "out", KINDS)
    assert [source.is_video for source in sources] == [False, True, True]
    assert webcam(0).is_video and webcam(0).name == "webcam"
    with pytest.raises(ValueError, match="--webcam: got -1, expected the number of a camera"):
        webcam(-1)
    assert not Source(Path("mp4"), Path("mp4"), "mp4").is_video


@pytest.mark.parametrize("suffix", ["gif", "tif", "webp"])
def test_pages_are_remarked(tmp_path, caplog, suffix):
    rng = np.random.default_rng(0)
    pages = [Image.fromarray(rng.integers(0, 255, (9, 9, 3), np.uint8)) for _ in range(2)]
    pages[0].save(tmp_path / f"one.{suffix}")
    pages[0].save(tmp_path / f"two.{suffix}", save_all=True, append_images=pages[1:])
    remark_pages(tmp_path / f"one.{suffix}")
    assert not caplog.messages
    remark_pages(tmp_path / f"two.{suffix}")
    assert [m for m in caplog.messages if "the first of its 2 pages is segmented" in m]


def test_a_damaged_page_is_no_fault_of_the_first(tmp_path, caplog):
    pages = [Image.fromarray(np.full((9, 9, 3), k, np.uint8)) for k in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    whole = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(whole[: len(whole) // 2])
    remark_pages(tmp_path / "a.tif")
    (tmp_path / "b.gif").write_text("no image")
    remark_pages(tmp_path / "b.gif")
    assert not caplog.messages


def test_long_lists_of_what_is_left_out_are_short(tmp_path, caplog):
    touch(tmp_path, "a.jpg", *(f"{k:03d}.txt" for k in range(100)))
    find_inputs([str(tmp_path)])
    assert "019.txt and 80 more" in caplog.text and "020.txt" not in caplog.text
