"""A run over a folder goes on where another one stopped, whichever way it stopped."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hyperclip.results import WRITERS, Answer, add_to_all, build_writers

NAMES = ["sky", 'a "b", c', "犬"]
ALL = ",".join(WRITERS)
PER_IMAGE = "labelme,npz,voc,cityscapes,panoptic"


def answer_of(i):
    generator = np.random.default_rng(i)
    labels = generator.integers(-1, 3, (7, 5 + i))
    return Answer(labels, generator.random(labels.shape, dtype=np.float32), NAMES)


def add(writers, *images):
    for i in images:
        add_to_all(writers, f"photo {i}", f"photo {i}.jpg", answer_of(i))


def close(writers):
    for writer in writers:
        writer.close()


def files_of(folder):
    """What each file holds, of npz the arrays, but not the notes of the run."""
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or name.startswith(".formats/"):
            continue
        if path.suffix == ".npz":
            with np.load(path) as stored:
                files[name] = {key: stored[key].tolist() for key in stored}
        else:
            files[name] = path.read_bytes()
    return files


@pytest.fixture
def whole(tmp_path):
    """The files of a run of four images at once."""
    writers = build_writers(ALL, tmp_path / "whole", NAMES)
    add(writers, 0, 1, 2, 3)
    close(writers)
    return files_of(tmp_path / "whole")


def test_two_runs_write_what_one_does(tmp_path, whole):
    folder = tmp_path / "parts"
    first = build_writers(ALL, folder, NAMES)
    assert not any(writer.has("photo 0") for writer in first)
    add(first, 0, 1)
    close(first)
    second = build_writers(ALL, folder, NAMES, resume=True)
    for writer in second:
        assert [writer.has(f"photo {i}") for i in range(4)] == [True, True, False, False]
    add(second, 2, 3)
    close(second)
    assert files_of(folder) == whole


def test_a_run_that_was_killed(tmp_path, whole):
    """It was never closed, and its last line is cut: only that image is done again."""
    folder = tmp_path / "parts"
    add(build_writers(ALL, folder, NAMES), 0, 1, 2)
    for file in (folder / ".formats").iterdir():
        file.write_bytes(file.read_bytes()[:-9])
    writers = build_writers(ALL, folder, NAMES, resume=True)
    assert all(writer.has("photo 1") and not writer.has("photo 2") for writer in writers)
    add(writers, 2, 3)
    close(writers)
    assert files_of(folder) == whole


def test_an_image_again_takes_the_place_of_the_first(tmp_path, whole):
    writers = build_writers(ALL, tmp_path / "parts", NAMES)
    add_to_all(writers, "photo 0", "photo 0.jpg", answer_of(9))
    close(writers)
    writers = build_writers(ALL, tmp_path / "parts", NAMES, resume=True)
    add(writers, 0, 1, 2, 3)
    close(writers)
    close(writers)
    assert files_of(tmp_path / "parts") == whole


def test_a_run_that_does_not_go_on_forgets_the_earlier_one(tmp_path, whole):
    folder = tmp_path / "parts"
    other = build_writers(ALL, folder, ["x"])
    for i in range(2):
        labels = np.zeros((3, 4 + i), dtype=int)
        add_to_all(other, f"photo {i}", "x.jpg", Answer(labels, np.ones(labels.shape), ["x"]))
    close(other)
    fresh = build_writers(ALL, folder, NAMES)
    add(fresh, 0)  # and is killed: files of "photo 1" are the earlier run's
    writers = build_writers(ALL, folder, NAMES, resume=True)
    assert all(writer.has("photo 0") and not writer.has("photo 1") for writer in writers)
    add(writers, 1, 2, 3)
    close(writers)
    assert files_of(folder) == whole


@pytest.mark.parametrize("form", PER_IMAGE.split(","))
def test_a_fresh_run_that_is_killed_in_its_first_image(tmp_path, form, monkeypatch):
    """The earlier run cannot go on: some of its files are the fresh one's."""
    writers = build_writers(form, tmp_path, NAMES)
    add(writers, 0, 1)
    close(writers)
    (fresh,) = build_writers(form, tmp_path, NAMES, settings={"threshold": 0.5})

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(fresh.journal, "add", stop)
    with pytest.raises(KeyboardInterrupt):
        add([fresh], 0)
    with pytest.raises(ValueError, match="of other threshold"):
        build_writers(form, tmp_path, NAMES, resume=True)
    (again,) = build_writers(form, tmp_path, NAMES, settings={"threshold": 0.5}, resume=True)
    assert not again.has("photo 0") and not again.has("photo 1")


@pytest.mark.parametrize("form", PER_IMAGE.split(","))
def test_a_file_that_was_removed_is_not_there(tmp_path, form):
    writers = build_writers(form, tmp_path, NAMES)
    add(writers, 0, 1)
    close(writers)
    next(path for path in tmp_path.rglob("photo 0*") if path.is_file()).unlink()
    (writer,) = build_writers(form, tmp_path, NAMES, resume=True)
    assert not writer.has("photo 0") and writer.has("photo 1")


def test_a_format_that_is_new(tmp_path):
    writers = build_writers("coco", tmp_path, NAMES)
    add(writers, 0)
    close(writers)
    coco, table = build_writers("coco,table", tmp_path, NAMES, resume=True)
    assert coco.has("photo 0") and not table.has("photo 0")


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["sky"], {}, r'are of other names: got \["sky", .*, expected \["sky"\]'),
        (NAMES, {"instances": True}, "are of other instances: got false, expected true"),
        (NAMES, {"smallest": 2}, "are of other smallest: got 1, expected 2"),
        (NAMES, {"settings": {"threshold": 0.5}}, "other threshold: got null, expected 0.5"),
    ],
)
@pytest.mark.parametrize("form", list(WRITERS))
def test_other_names_or_options_are_refused(tmp_path, form, names, options, message):
    writers = build_writers(form, tmp_path, NAMES)
    add(writers, 0)
    close(writers)
    before = files_of(tmp_path)
    with pytest.raises(ValueError, match=f"--format {form}: the results in .*{message}") as error:
        build_writers(form, tmp_path, names, resume=True, **options)
    assert "\n" not in str(error.value) and files_of(tmp_path) == before


def test_settings_that_are_the_same(tmp_path):
    for resume in (False, True):
        options = {"settings": {"sizes": (1, 2)}, "resume": resume}
        (writer,) = build_writers("coco", tmp_path, NAMES, **options)
        assert writer.has("photo 0") is resume
        add([writer], 0)


def test_a_run_without_images_writes_empty_files(tmp_path):
    close(build_writers(ALL, tmp_path, NAMES))
    coco = json.loads((tmp_path / "coco.json").read_text())
    assert coco["images"] == [] and [known["name"] for known in coco["categories"]] == NAMES
    assert json.loads((tmp_path / "label_studio.json").read_text()) == []
    assert (tmp_path / "table.csv").read_text() == "image,class,pixels,share,confidence\n"


def test_nothing_is_written_before_the_first_image(tmp_path):
    build_writers(ALL, tmp_path, NAMES)
    assert not list(tmp_path.iterdir())


def test_what_no_run_can_take(tmp_path):
    """Answers of other names, and file names that text files cannot hold."""
    (coco,) = build_writers("coco", tmp_path, NAMES)
    with pytest.raises(ValueError, match="got an answer of other names"):
        coco.add("a", "a.jpg", Answer(np.zeros((1, 1), dtype=int), np.ones((1, 1)), ["sky"]))
    coco.add("caf\udce9", "caf\udce9.jpg", answer_of(0))
    for form in ("table", "cvat", "label-studio", "voc"):
        (writer,) = build_writers(form, tmp_path, NAMES)
        with pytest.raises(OSError, match=f"{form} cannot hold the file name"):
            writer.add("caf\udce9", "caf\udce9.jpg", answer_of(0))
        assert not writer.has("caf\udce9")
        writer.close()
    (writer,) = build_writers("voc", tmp_path, NAMES)
    with pytest.raises(OSError, match="voc cannot list the file name '#1'"):
        writer.add("#1", "#1.jpg", answer_of(0))


def test_a_journal_that_is_not_ours(tmp_path):
    """Lines that are no JSON, or no objects, do not count."""
    (tmp_path / ".formats").mkdir()
    (tmp_path / ".formats" / "coco.jsonl").write_bytes(b'\xff\n[1]\n{"name": "photo 0"}\n')
    (writer,) = build_writers("coco", tmp_path, NAMES, resume=True)
    assert not writer.has("photo 0")
    add([writer], 1)
    close([writer])
    images = json.loads((tmp_path / "coco.json").read_text())["images"]
    assert [image["file_name"] for image in images] == ["photo 1.jpg"]
