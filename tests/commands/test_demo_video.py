"""Videos and webcams in the demo: frames in order, in time, one at a time; faults in one line."""

from __future__ import annotations

import csv

import cv2
import numpy as np
import pytest
from hyperclip.commands import demo, demo_segment, demo_video
from hyperclip.commands.demo_video import VideoFile, VideoReader
from hyperclip.runtime.finite import NotFiniteError
from hyperclip.visualization import palette
from PIL import Image

from tests.helpers.videos import (
    LEVELS,
    WORDS,
    Camera,
    LevelPredictor,
    frame_of,
    read_video,
    write_video,
)

CONFIG = "configs/quickstart/dense_clip.yaml"


@pytest.fixture
def segment(tmp_path, monkeypatch):
    """Runs the demo with a predictor that reads levels: the exit status."""

    def run(*options, predictor=None):
        used = predictor or LevelPredictor()
        monkeypatch.setattr(demo.Predictor, "from_config", lambda cfg: used)
        given = ["--config-file", CONFIG, "--output", tmp_path / "out", "--vocabulary", WORDS]
        return demo.main([*map(str, (*given, *options)), "--opts", "MODEL.DEVICE", "cpu"])

    return run


def level_of(labels_file):
    """The one class of a label map."""
    (level,) = np.unique(np.asarray(Image.open(labels_file)))
    return int(level)


def shown_level(picture):
    """The class that a painted frame (H, W, 3) shows, by its colour in the middle of the image."""
    grey = np.array([16 * k + 8 for k in range(LEVELS)])[:, None]
    painted = 0.45 * grey + 0.55 * palette(LEVELS)
    middle = picture[100:140, 100:160].reshape(-1, 3).mean(axis=0)
    return int(np.abs(painted - middle).sum(axis=1).argmin())


def files_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def times_of(file):
    with file.open(newline="") as lines:
        return {int(row["frame"]): float(row["seconds"]) for row in csv.DictReader(lines)}


def test_frames_in_order(tmp_path, segment):
    write_video(tmp_path / "clip ü.mp4", 20, rate=12.5)
    assert segment("--input", tmp_path / "clip ü.mp4") == 0
    out = tmp_path / "out"
    labels = [f"clip ü_labels/{k:06d}.png" for k in range(20)]
    others = ["classes.json", "clip ü.mp4", "clip ü_frames.csv", "clip ü_labels", "run.json"]
    assert files_in(out) == sorted(others + labels)
    assert [level_of(out / name) for name in labels] == [k % LEVELS for k in range(20)]
    frames, rate = read_video(out / "clip ü.mp4")
    assert [shown_level(frame) for frame in frames] == [k % LEVELS for k in range(20)]
    assert rate == pytest.approx(12.5)
    assert times_of(out / "clip ü_frames.csv") == pytest.approx({k: k / 12.5 for k in range(20)})


@pytest.mark.parametrize("every", [2, 7, 50])
def test_each_nth_frame(tmp_path, segment, every):
    """The others are left out, and the video lasts as long as before."""
    write_video(tmp_path / "clip.avi", 40, rate=20, code="MJPG")
    assert segment("--input", tmp_path / "clip.avi", "--every", every) == 0
    taken = list(range(0, 40, every))
    frames, rate = read_video(tmp_path / "out/clip.mp4")
    assert [shown_level(frame) for frame in frames] == [k % LEVELS for k in taken]
    assert rate == pytest.approx(max(1, 20 / every), rel=1e-3)
    labels = sorted((tmp_path / "out/clip_labels").iterdir())
    assert [int(path.stem) for path in labels] == taken
    assert [level_of(path) for path in labels] == [k % LEVELS for k in taken]
    assert list(times_of(tmp_path / "out/clip_frames.csv")) == taken


def test_what_is_saved_of_a_video(tmp_path, segment):
    write_video(tmp_path / "clip.mp4", 3)
    assert segment("--input", tmp_path / "clip.mp4", "--save", "scores") == 0
    out = tmp_path / "out"
    scores = [f"clip_scores/{k:06d}.npz" for k in range(3)]
    assert files_in(out) == sorted(
        ["classes.json", "clip_frames.csv", "clip_scores", "run.json", *scores]
    )
    for k, name in enumerate(scores):
        with np.load(out / name) as stored:
            assert stored["scores"].shape == (LEVELS, 48, 64)
            assert stored["scores"].dtype == np.float16 and stored["scores"][k].min() == 0.75
            assert "; ".join(stored["names"]) == WORDS


def test_one_frame_at_a_time(tmp_path, segment):
    """A video of any length needs the memory of two frames."""
    predictor = LevelPredictor()
    write_video(tmp_path / "long.mp4", 300)
    assert segment("--input", tmp_path / "long.mp4", "--save", "overlay", predictor=predictor) == 0
    assert len(predictor.seen) == 300 and max(predictor.alive) <= 1


def test_frames_of_a_varying_rate_keep_their_times(tmp_path):
    times = [0.0, 0.1, 0.15, 0.9, 1.0, 1.02, 1.04, 2.0]
    with VideoFile(tmp_path / "a.mp4", tmp_path / "part.mp4", 10.0) as video:
        for k, seconds in enumerate(times):
            video.add(np.repeat(frame_of(k), 5, axis=0).repeat(5, axis=1), seconds)
    frames, rate = read_video(tmp_path / "a.mp4")
    levels = [int(frame.mean() // 16) for frame in frames]
    assert rate == 10 and len(levels) == 21
    for tick, expected in {0: 0, 1: 1, 2: 2, 8: 2, 9: 3, 10: 4, 13: 6, 19: 6, 20: 7}.items():
        assert levels[tick] == expected, levels
    assert levels == sorted(levels) and set(levels) == set(range(8))


def test_times_that_cannot_be_true(tmp_path):
    """A gap of hours, as where recordings were joined, is no reason to write for hours."""
    with VideoFile(tmp_path / "a.mp4", tmp_path / "part.mp4", 2.0) as video:
        for seconds in (0.0, 0.5, 1e6, 1e6 + 0.5):
            video.add(frame_of(3), seconds)
    assert len(read_video(tmp_path / "a.mp4")[0]) == 1 + 1 + 120 + 1


def reader_of(file, milliseconds):
    """A reader of a video whose frames have these times."""
    reader, stated = VideoReader(file), iter(milliseconds)

    class Times:
        def get(self, key):
            return next(stated) if key == cv2.CAP_PROP_POS_MSEC else kept.get(key)

        def __getattr__(self, name):
            return getattr(kept, name)

    kept, reader.capture = reader.capture, Times()
    return reader


def test_times_always_grow(tmp_path):
    write_video(tmp_path / "a.mp4", 5)
    reader = reader_of(tmp_path / "a.mp4", [0.0, 0.0, 50.0, float("nan"), 1000.0])
    assert [f.seconds for f in reader.frames()] == pytest.approx([0, 0.1, 0.2, 0.3, 1.0])


@pytest.mark.parametrize(
    ("last", "fault"),
    [(4.9, ""), (3.0, "5 of 50 frames can be read; is it damaged or cut short?")],
)
def test_a_number_of_frames_that_is_estimated_from_the_length(tmp_path, last, fault):
    """As OpenCV does for some formats: at a varying rate there are fewer, but up to the end."""
    write_video(tmp_path / "a.mp4", 5, rate=10)
    reader = reader_of(tmp_path / "a.mp4", [1000 * last * k / 4 for k in range(5)])
    reader.announced = 50
    assert len(list(reader.frames())) == 5 and reader.fault() == fault


@pytest.mark.parametrize(("turn", "corner"), [(90, (0, -1)), (180, (-1, -1)), (270, (-1, 0))])
def test_a_phone_held_upright(tmp_path, turn, corner):
    """Frames are turned as the file says. The first corner of what is stored is bright."""
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32] = 255
    fourcc = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(tmp_path / "a.mp4"), cv2.CAP_FFMPEG, fourcc, 10, (64, 48))
    writer.write(picture)
    writer.release()
    content = bytearray((tmp_path / "a.mp4").read_bytes())
    cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[turn]
    matrix = [cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30]
    place = content.index(b"tkhd") + 4 + 40
    content[place : place + 36] = np.array(matrix, ">i4").tobytes()
    (tmp_path / "a.mp4").write_bytes(content)
    reader = VideoReader(tmp_path / "a.mp4")
    (frame,) = [frame.image for frame in reader.frames()]
    size = (64, 48) if turn == 180 else (48, 64)
    assert frame.shape == (size[1], size[0], 3) and (reader.width, reader.height) == size
    quarters = {
        (0, 0): frame[: size[1] // 2, : size[0] // 2],
        (0, -1): frame[: size[1] // 2, size[0] // 2 :],
        (-1, 0): frame[size[1] // 2 :, : size[0] // 2],
        (-1, -1): frame[size[1] // 2 :, size[0] // 2 :],
    }
    assert max(quarters, key=lambda key: quarters[key].mean()) == corner


@pytest.mark.parametrize("size", [(62, 46), (2, 2), (400, 300)])
def test_videos_of_any_size(tmp_path, segment, size):
    """The painted one has room for every name."""
    write_video(tmp_path / "clip.mkv", 5, size=size, code="FFV1")
    assert segment("--input", tmp_path / "clip.mkv") == 0
    frames, _ = read_video(tmp_path / "out/clip.mp4")
    width = 40 + 9 * len("and 16 more")
    assert len(frames) == 5 and frames[0].shape[1] == size[0] * (320 // max(size) or 1) + width + 1
    labels = Image.open(tmp_path / "out/clip_labels/000004.png")
    assert labels.size == size


def test_sides_are_even_as_the_format_wants(tmp_path):
    with VideoFile(tmp_path / "a.mp4", tmp_path / "part.mp4", 10.0) as video:
        for k in range(3):
            video.add(frame_of(k, (63, 47)), k / 10)
    frames, _ = read_video(tmp_path / "a.mp4")
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 3
    assert [int(frame[:, -1].mean() // 16) for frame in frames] == [0, 1, 2]


def test_a_video_that_changes_its_size(tmp_path):
    with VideoFile(tmp_path / "a.mp4", tmp_path / "part.mp4", 10.0) as video:
        for k, size in enumerate([(64, 48), (64, 48), (32, 90), (65, 49)]):
            video.add(frame_of(k, size), k / 10)
    frames, _ = read_video(tmp_path / "a.mp4")
    assert [int(frame.mean() // 16) for frame in frames] == [0, 1, 2, 3]


def test_files_that_are_no_video(tmp_path, segment, caplog):
    write_video(tmp_path / "good.mp4", 3)
    whole = (tmp_path / "good.mp4").read_bytes()
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    write_video(tmp_path / "none.avi", 0, code="MJPG")
    names = ("text.mp4", "empty.mp4", "cut.mp4", "none.avi", "good.mp4")
    assert segment("--input", *(tmp_path / name for name in names)) == 1
    for name in names[:-1]:
        (line,) = [text for text in caplog.messages if f"/{name}:" in text]
        assert "\n" not in line and ("cannot be read" in line or "no frame can be read" in line)
    assert "4 of 5 files could not be read" in caplog.text
    assert {name.split("/")[0] for name in files_in(tmp_path / "out")} == {
        *("classes.json", "run.json", "good.mp4", "good_frames.csv", "good_labels"),
    }


def test_a_video_that_is_cut_short(tmp_path, segment, caplog):
    write_video(tmp_path / "clip.avi", 40, code="MJPG")
    whole = (tmp_path / "clip.avi").read_bytes()
    (tmp_path / "clip.avi").write_bytes(whole[: len(whole) // 2])
    assert segment("--input", tmp_path / "clip.avi") == 1
    (line,) = [text for text in caplog.messages if "of 40 frames can be read" in text]
    assert "clip.avi: " in line and "is it damaged or cut short?" in line and "\n" not in line
    frames, _ = read_video(tmp_path / "out/clip.mp4")
    assert f" {len(frames)} of 40 " in line and 5 < len(frames) < 40
    assert [shown_level(frame) for frame in frames] == [k % LEVELS for k in range(len(frames))]


def test_broken_frames_within_a_video(tmp_path, segment, caplog):
    write_video(tmp_path / "clip.mp4", 40)
    content = bytearray((tmp_path / "clip.mp4").read_bytes())
    start, end = content.index(b"mdat") + 4, content.index(b"moov")
    place = start + (end - start) * 2 // 5
    content[place : place + 60] = bytes(60)
    (tmp_path / "clip.mp4").write_bytes(content)
    assert segment("--input", tmp_path / "clip.mp4") == 1
    (line,) = [text for text in caplog.messages if "frames can be read" in text]
    assert "of 40 frames can be read; is it damaged" in line
    levels = {int(p.stem): level_of(p) for p in (tmp_path / "out/clip_labels").iterdir()}
    assert 10 < len(levels) < 40 and max(levels) == 39
    for number in (0, 1, 2, 37, 38, 39):  # numbers and times of the others are what they were
        assert levels[number] == number % LEVELS
    assert len(read_video(tmp_path / "out/clip.mp4")[0]) == 40


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (NotFiniteError("NaN in the scores"), "clip.mp4: not finished: NaN in the scores"),
        (KeyboardInterrupt(), "Interrupted: 0 of 1 are done, and no file is half-written; the sa"),
    ],
)
def test_what_was_done_until_then_is_a_video(tmp_path, segment, caplog, error, message):
    write_video(tmp_path / "clip.mp4", 30)

    def stop(count):
        if count == 12:
            raise error

    options = ["--input", tmp_path / "clip.mp4"]
    if isinstance(error, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            segment(*options, predictor=LevelPredictor(stop))
    else:
        assert segment(*options, predictor=LevelPredictor(stop)) == 1
    assert message in caplog.text and "clip_part.mp4 holds the 12 frames until then" in caplog.text
    frames, _ = read_video(tmp_path / "out/clip_part.mp4")
    assert [shown_level(frame) for frame in frames] == list(range(12))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"classes.json", "clip_labels", "clip_part.mp4", "run.json"}
    assert segment(*options, "--resume") == 0
    assert len(read_video(tmp_path / "out/clip.mp4")[0]) == 30
    assert not (tmp_path / "out/clip_part.mp4").exists()


def test_a_disk_that_is_full(tmp_path, segment, caplog, monkeypatch):
    monkeypatch.setattr(demo_video, "frames_of", lambda file: 2)
    write_video(tmp_path / "clip.mp4", 5)
    assert segment("--input", tmp_path / "clip.mp4") == 1
    assert "clip.mp4' cannot be written: frames are missing in it; is the disk full?" in caplog.text
    assert not [path for path in (tmp_path / "out").iterdir() if path.suffix == ".mp4"]


def test_a_video_that_is_too_large_to_write(tmp_path):
    with pytest.raises(
        OSError, match="a.mp4' cannot be written: OpenCV refuses a video of 10000 x"
    ):
        with VideoFile(tmp_path / "a.mp4", tmp_path / "part.mp4", 10.0) as video:
            video.add(np.zeros((8, 10000, 3), np.uint8), 0.0)
    assert list(tmp_path.iterdir()) == []


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize("end", [lambda: False, interrupt])
def test_a_webcam_until_somebody_interrupts(tmp_path, segment, monkeypatch, end):
    """Frames come as fast as they are segmented; the video runs as fast as the clock."""
    clock = iter(np.arange(0, 100, 0.25))
    real = cv2.VideoCapture
    monkeypatch.setattr(demo_video.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(
        demo_video.cv2, "VideoCapture", lambda x, *how: Camera(8, end) if x == 3 else real(x, *how)
    )
    monkeypatch.setattr(demo_segment, "SECONDS_BETWEEN_LINES", 1e9)
    assert segment("--webcam", 3, "--save", "overlay") == 0
    out = tmp_path / "out"
    assert {p.name for p in out.iterdir()} == {
        *("classes.json", "run.json", "webcam.mp4", "webcam_frames.csv")
    }
    times = times_of(out / "webcam_frames.csv")
    assert list(times) == list(range(8))
    frames, rate = read_video(out / "webcam.mp4")
    levels = [shown_level(frame) for frame in frames]
    assert rate == 30 and levels == sorted(levels) and set(levels) == set(range(8))
    assert len(frames) == pytest.approx((times[7] - times[0]) * 30, abs=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--webcam", "7"], "camera 7 cannot be opened; is there one"),
        (["--webcam", "-1"], "--webcam: got -1, expected the number"),
        (["--webcam", "0", "--resume"], "--resume: got --webcam, which nothing can go on with"),
        (["--input", "clip.mp4", "--every", "0"], "--every: got 0, expected a whole number from 1"),
        (["--input", "clip.mp4", "--every", "-3"], "--every: got -3, expected a whole number"),
        (["--input", "clip.mp4", "--format", "coco"], "--format: got coco with the video clip.mp4"),
    ],
)
def test_options_that_are_wrong(tmp_path, segment, monkeypatch, options, message):
    config = str(demo.files.local_path(CONFIG).resolve())
    monkeypatch.setattr("tests.commands.test_demo_video.CONFIG", config)
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "clip.mp4", 2)
    with pytest.raises(ValueError, match=message):
        segment(*options)
    assert not (tmp_path / "out").exists()


def test_lines_say_how_far_a_video_is(tmp_path, segment, monkeypatch, caplog):
    monkeypatch.setattr(demo_segment, "SECONDS_BETWEEN_LINES", 0.0)
    write_video(tmp_path / "clip.mp4", 9)
    with caplog.at_level("INFO", logger="hyperclip"):
        assert segment("--input", tmp_path / "clip.mp4", "--every", 2) == 0
    for k in range(1, 6):
        assert f"clip.mp4: {k} of 5 frames" in caplog.text
