"""Runs of the demo over many images: what is saved, going on where one stopped, interruption."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hyperclip.commands import demo, demo_results
from hyperclip.tinyscenes.drawing import render_scene
from PIL import Image

from tests.conftest import ROOT
from tests.helpers.videos import LEVELS, WORDS, LevelPredictor, frame_of, write_video

CONFIG = "configs/quickstart/dense_clip.yaml"


@pytest.fixture
def photos(tmp_path):
    """Three images of levels 0, 1, 2, one of them in a folder."""
    folder = tmp_path / "photos"
    for k, name in enumerate(("a.png", "b.png", "x/a.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(frame_of(k)).save(folder / name)
    return folder


@pytest.fixture
def segment(tmp_path, photos, monkeypatch):
    """Runs the demo over the photos: ``segment(*options)`` gives the levels that were seen."""
    demo.setup_logger(name="hyperclip")  # what it hides from caplog at its first call alone
    monkeypatch.setattr(logging.getLogger("hyperclip"), "propagate", True)

    def run(*options, words=WORDS, stop=lambda count: None, opts=(), inputs=(photos,)):
        predictor, seen = LevelPredictor(stop), []
        encode = predictor.encode

        def note(image, file_name=""):
            encoded = encode(image)
            seen.append(encoded.encoded)
            return encoded

        predictor.encode = note
        monkeypatch.setattr(demo.Predictor, "from_config", lambda cfg: predictor)
        given = ["--config-file", CONFIG, "--output", tmp_path / "out", "--vocabulary", words]
        more = ["--recursive", "--input", *inputs, "--opts", "MODEL.DEVICE", "cpu", *opts]
        run.status = demo.main([*map(str, (*given, *options, *more))])
        return seen

    return run


def files_in(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def named(*kinds):
    """Files of the three photos' results, and those of the run."""
    ends = {"overlay": ".png", "labels": "_labels.png", "scores": "_scores.npz"}
    results = [name + ends[kind] for name in ("a", "b", "x/a") for kind in kinds]
    return sorted([*results, "classes.json", "run.json"])


@pytest.mark.parametrize(
    ("save", "kinds"),
    [
        (None, ("overlay", "labels")),
        ("overlay", ("overlay",)),
        (" labels ,labels,", ("labels",)),
        ("overlay,labels,scores", ("overlay", "labels", "scores")),
    ],
)
def test_what_is_saved(tmp_path, segment, save, kinds):
    assert segment(*(["--save", save] if save else [])) == [0, 1, 2] and segment.status == 0
    out = tmp_path / "out"
    assert files_in(out) == named(*kinds)
    if "labels" in kinds:
        assert (np.asarray(Image.open(out / "x/a_labels.png")) == 2).all()
    if "scores" in kinds:
        with np.load(out / "x/a_scores.npz") as stored:
            assert stored["scores"].dtype == np.float16
            assert stored["scores"].shape == (LEVELS, 48, 64)
            assert (stored["scores"].argmax(0) == 2).all() and len(stored["names"]) == LEVELS


def test_scores_are_those_of_the_model(tmp_path):
    """Of a real one; its labels are their best class."""
    Image.fromarray(render_scene("val_seen", 0)[0][:, :80]).save(tmp_path / "a.png")
    words = "red plain circle; blue striped star; green dotted cross"
    given = ["--config-file", CONFIG, "--input", str(tmp_path / "a.png"), "--vocabulary", words]
    save = ["--save", "labels,scores", "--output", str(tmp_path / "out")]
    assert demo.main([*given, *save, "--opts", "MODEL.DEVICE", "cpu"]) == 0
    predictor = demo.Predictor.from_config(CONFIG, ["MODEL.DEVICE", "cpu"])
    answer = predictor.segment(predictor.encode(tmp_path / "a.png"), words, scores=True)
    with np.load(tmp_path / "out/a_scores.npz") as stored:
        np.testing.assert_allclose(stored["scores"], answer.scores, atol=1e-3)
    labels = np.asarray(Image.open(tmp_path / "out/a_labels.png"))
    np.testing.assert_array_equal(labels, answer.scores.argmax(0))
    np.testing.assert_array_equal(answer.confidence, answer.scores.max(0))
    assert predictor.segment(predictor.encode(tmp_path / "a.png"), words).scores is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--save", "overlay,score"], "--save: got 'score', expected some of .* Did you mean sco"),
        (["--save", "none"], "--save: got 'none', expected some of"),
        (["--save", " , "], "--save: got nothing, expected some of"),
        (["--background", "none", "--threshold", "0.5"], "'none': got a threshold, too"),
        (["--background", "words"], "'words': vocabulary 'custom' has no background words"),
        (["--negatives", "level 1"], "'level 1' is also a class"),
        (["--negatives", "sky", "--background", "other"], "negatives: got sky with background"),
    ],
)
def test_options_that_are_wrong(tmp_path, segment, options, message):
    with pytest.raises(ValueError, match=message):
        segment(*options)
    assert not (tmp_path / "out").exists()


def test_scores_that_take_too_much_memory(tmp_path, photos, segment, monkeypatch):
    """Refused before anything is computed; a file that cannot be read does not matter then."""
    (photos / "broken.png").write_text("no image")
    monkeypatch.setattr(demo_results, "MOST_SCORES", 48 * 64 * LEVELS)
    assert segment("--save", "scores") == [0, 1, 2] and segment.status == 1
    monkeypatch.setattr(demo_results, "MOST_SCORES", 48 * 64 * LEVELS - 1)
    expected = f"a.png has 64 x 48 pixels, with 16 classes {48 * 64 * 16} scores, expected at most"
    with pytest.raises(ValueError, match=f"--save scores: .*{expected}"):
        segment("--save", "scores", inputs=[photos / "a.png"])
    assert segment("--save", "labels") == [0, 1, 2]
    write_video(tmp_path / "clip.mp4", 2)
    with pytest.raises(ValueError, match="--save scores: .*clip.mp4 has 64 x 48 pixels, with 16"):
        segment("--save", "scores", inputs=[photos / "broken.png", tmp_path / "clip.mp4"])


def test_results_that_cannot_be_written(tmp_path, segment, caplog):
    """The others are."""
    write_video(tmp_path / "x.mp4", 3)
    (tmp_path / "out").mkdir()
    for name in ("x", "x_labels"):
        (tmp_path / "out" / name).write_text("mine")
    assert segment(inputs=[tmp_path / "photos", tmp_path / "x.mp4"]) == [0, 1, 2, 0]
    assert segment.status == 1 and "2 of 4 files could not be read in full or th" in caplog.text
    lines = [line for line in caplog.messages if "a file is in the place of a folder" in line]
    assert len(lines) == 2 and not any("\n" in line for line in lines)
    assert files_in(tmp_path / "out") == [
        *("a.png", "a_labels.png", "b.png", "b_labels.png"),
        *("classes.json", "run.json", "x", "x_labels"),
    ]


def test_a_format_without_pictures(tmp_path, photos, segment):
    """Files within folders are called by their path."""
    segment("--save", "", "--format", "table,npz")
    notes = [".formats/npz.jsonl", ".formats/table.jsonl", "classes.json"]
    names = ["npz/a.npz", "npz/b.npz", "npz/x/a.npz", "run.json", "table.csv"]
    assert files_in(tmp_path / "out") == [*notes, *names]
    lines = (tmp_path / "out/table.csv").read_text().splitlines()
    assert {line.split(",")[0] for line in lines[1:]} == {"a.png", "b.png", "x/a.png"}


def test_folders_that_a_format_takes(photos, segment):
    (photos / "x").rename(photos / "panoptic")
    assert segment("--format", "npz") == [0, 1, 2]
    with pytest.raises(
        ValueError, match="panoptic/a.png would go among those of --format panoptic"
    ):
        segment("--format", "npz, panoptic")


# Going on where a run stopped


def stop_at(number):
    def stop(count):
        if count == number:
            raise KeyboardInterrupt

    return stop


def test_an_interrupted_run_goes_on(tmp_path, segment, caplog):
    caplog.set_level(logging.INFO, logger="hyperclip")
    with pytest.raises(KeyboardInterrupt):
        segment(stop=stop_at(1))
    assert "1 of 3 are done" in caplog.text and "the same command with --resume goes" in caplog.text
    assert files_in(tmp_path / "out") == ["a.png", "a_labels.png", "classes.json", "run.json"]
    with pytest.raises(KeyboardInterrupt):
        segment("--resume", stop=stop_at(1))
    assert segment("--resume") == [2]
    assert "--resume: 2 of 3 are done" in caplog.text
    assert files_in(tmp_path / "out") == named("overlay", "labels")
    assert segment("--resume") == [] and segment.status == 0
    assert segment() == [0, 1, 2]


def test_a_name_that_is_too_long_ends_a_run_before_its_first_image(tmp_path):
    Image.fromarray(render_scene("val_seen", 0)[0]).save(tmp_path / "a.png")
    given = ["--config-file", CONFIG, "--input", str(tmp_path / "a.png"), "--vocabulary", "red"]
    more = ["--negatives", "very " * 90, "--output", str(tmp_path / "out")]
    with pytest.raises(ValueError, match="tokens"):
        demo.main([*given, *more, "--opts", "MODEL.DEVICE", "cpu"])
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_formats_go_on_too(tmp_path, segment):
    """Also when the pictures are there and the format's part of an image is not."""
    whole = tmp_path / "out/coco.json"
    with pytest.raises(KeyboardInterrupt):
        segment("--format", "coco", stop=stop_at(1))
    assert len(json.loads(whole.read_text())["images"]) == 1
    assert segment("--format", "coco", "--resume") == [1, 2]
    assert len(json.loads(whole.read_text())["images"]) == 3
    before = whole.read_bytes()
    whole.unlink()
    assert segment("--format", "coco", "--resume") == [] and whole.read_bytes() == before
    assert segment("--format", "coco,table", "--resume") == [0, 1, 2]
    assert (tmp_path / "out/table.csv").read_text().count("\n") == 1 + 3 * LEVELS


def test_words_that_are_left_unpainted(tmp_path):
    """As the predictor leaves them: --negatives, --background."""
    Image.fromarray(render_scene("val_seen", 0)[0]).save(tmp_path / "a.png")
    words, more = "red plain circle; blue striped star", "green dotted cross; grey ground"
    given = ["--config-file", CONFIG, "--input", str(tmp_path / "a.png"), "--vocabulary", words]
    predictor = demo.Predictor.from_config(CONFIG, ["MODEL.DEVICE", "cpu"])
    encoded = predictor.encode(tmp_path / "a.png")
    middle = round(float(np.median(predictor.segment(encoded, words).confidence)), 3)
    for options in ({"negatives": more}, {"background": "other"}, {"threshold": middle}):
        flags = [text for key, value in options.items() for text in (f"--{key}", str(value))]
        out = ["--output", str(tmp_path / "out"), "--opts", "MODEL.DEVICE", "cpu"]
        assert demo.main([*given, *flags, *out]) == 0
        labels = predictor.segment(encoded, words, **options).labels
        assert 0 < (labels < 0).sum() < labels.size
        painted = np.asarray(Image.open(tmp_path / "out/a_labels.png"))
        np.testing.assert_array_equal(painted, np.where(labels < 0, 255, labels))


def test_a_folder_of_other_words_is_noted(segment, caplog):
    segment()
    segment()
    assert "other settings stay beside" not in caplog.text
    segment("--threshold", "0.5")
    note = "results of an earlier run with other settings stay beside the new ones"
    assert f"{note} (--threshold was 0.0, is 0.5)" in caplog.text


def test_what_is_done_again(tmp_path, photos, segment):
    """What is missing in part, or changed since, or of an image that failed."""
    (photos / "broken.png").write_text("no image")
    segment()
    (tmp_path / "out/a_labels.png").unlink()
    Image.fromarray(frame_of(9)).save(photos / "x/a.png")
    assert segment("--resume") == [0, 9] and segment.status == 1
    Image.fromarray(frame_of(7)).save(photos / "broken.png")
    assert segment("--resume") == [7] and segment.status == 0


def test_results_of_a_run_before_the_one_that_goes_on(tmp_path, segment):
    """A second run of other classes begins, and stops: what the first one left is not its own."""
    segment()
    with pytest.raises(KeyboardInterrupt):
        segment("--threshold", "0.5", stop=stop_at(1))
    assert segment("--threshold", "0.5", "--resume") == [1, 2]


@pytest.mark.parametrize(
    ("options", "more", "message"),
    [
        (
            [],
            {"words": "dog; " + WORDS},
            r"--vocabulary was \[\[\"level 0\"\], .*\.\.\., is \[\[\"do",
        ),
        ([], {"words": "Bär"}, r"\.\.\., is \[\[\"Bär\"\]\]\. Give the same"),
        (["--threshold", "0.5"], {}, r"settings: --threshold was 0.0, is 0.5\. Give the same"),
        (["--negatives", "sky"], {}, r"settings: --negatives was \[\], is \[\"sky\"\]; --back"),
        (["--save", "labels"], {}, r"--save was \[\"labels\", \"overlay\"\], is \[\"labels\"\]\."),
        (["--every", "2"], {}, r"settings: --every was 1, is 2\. Give the same again, choose ano"),
        ([], {"opts": ("TEST.SLIDING_WINDOW", "True")}, "TEST.SLIDING_WINDOW was false, is true"),
    ],
)
def test_an_earlier_run_with_other_settings(tmp_path, segment, options, more, message):
    segment()
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.*")}
    with pytest.raises(ValueError, match=f"--resume: .*/out is of a run with other .*{message}"):
        segment("--resume", *options, **more)
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.*")} == before
    assert segment("--resume") == []


def test_what_makes_no_difference(tmp_path, photos, segment):
    """Other images, and where other results would go."""
    segment(inputs=[photos / "a.png"])
    opts = ["OUTPUT_DIR", "elsewhere", "DATALOADER.NUM_WORKERS", "1"]
    opts += ["MODEL.CLIPER.DIFFUSION.CACHE", "elsewhere/cache", "MODEL.DEVICE", "cpu"]
    assert segment("--resume", opts=opts) == [1, 2]


def test_weights_count_by_their_content(tmp_path, segment):
    weights = tmp_path / "w.pth"
    weights.write_bytes(b"one")
    segment(opts=("MODEL.WEIGHTS", weights))
    again = tmp_path / "moved.pth"
    again.write_bytes(b"one")
    assert segment("--resume", opts=("MODEL.WEIGHTS", again)) == []
    again.write_bytes(b"two")
    with pytest.raises(ValueError, match=r"MODEL.WEIGHTS was .sha256:[0-9a-f]+\.\.\., is .sha256:"):
        segment("--resume", opts=("MODEL.WEIGHTS", again))


@pytest.mark.parametrize(
    ("content", "message"),
    [("[]", "run.json is not what the demo writes"), ("{", "run.json is not JSON in UTF-8")],
)
def test_a_run_json_that_is_damaged(tmp_path, segment, content, message):
    segment()
    (tmp_path / "out/run.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        segment("--resume")


def test_results_without_a_run_json(tmp_path, segment):
    segment("--resume")  # of nothing yet: a start
    (tmp_path / "out/run.json").unlink()
    with pytest.raises(ValueError, match="has a.png, but no run.json that says how it was made"):
        segment("--resume")


def test_notes_of_colours_stay(tmp_path, photos, segment):
    words = "; ".join(f"name {k}" for k in range(200))
    segment(words=words)
    file = tmp_path / "out/classes.json"
    classes = json.loads(file.read_text())
    classes[158]["recolored"] = {"a": [1, 2, 3]}
    file.write_text(json.dumps(classes))
    Image.fromarray(frame_of(4)).save(photos / "new.png")
    assert segment("--resume", words=words) == [4]
    assert json.loads(file.read_text())[158]["recolored"] == {"a": [1, 2, 3]}
    Image.fromarray(frame_of(3)).save(photos / "a.png")  # done again: what is noted of it is old
    assert segment("--resume", words=words) == [3]
    assert json.loads(file.read_text())[158]["recolored"] == {}
    file.write_text(json.dumps(classes[:100]))
    Image.fromarray(frame_of(5)).save(photos / "new.png")
    with pytest.raises(ValueError, match="--resume: .*classes.json lists other classes"):
        segment("--resume", words=words)


# Progress, and interruption of the program


def test_progress_on_a_terminal_and_not_in_files(segment, monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    segment()
    assert "%|" not in "".join(capsys.readouterr())
    monkeypatch.setattr(sys, "stderr", Terminal())
    segment()
    shown = sys.stderr.getvalue()
    assert re.search(r"\b2/3 \[\d\d:\d\d<\d\d:\d\d, .* file", shown), shown
    assert "%|" not in capsys.readouterr().out


def test_sigterm_is_an_interruption(segment):
    def stop(count):
        if count == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        segment(stop=stop)
    assert signal.getsignal(signal.SIGTERM) == before
    assert segment("--resume") == [1, 2]


MANY = 1500
"""Images: more than a program that nobody watches for a few seconds gets through."""


def test_a_program_that_is_interrupted(tmp_path):
    """It leaves whole files, and the next one goes on; with a real model, in a process."""
    folder, out = tmp_path / "many", tmp_path / "out"
    folder.mkdir()
    for k in range(MANY):
        if k < 4:
            Image.fromarray(render_scene("val_seen", k)[0]).save(folder / f"{k:04d}.png")
        else:
            os.link(folder / f"{k % 4:04d}.png", folder / f"{k:04d}.png")
    command = [sys.executable, "demo/demo.py", "--config-file", CONFIG, "--input", str(folder)]
    command += ["--output", str(out), "--vocabulary", "red plain circle; blue striped star"]
    options = ["--opts", "MODEL.DEVICE", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([*command, *options], cwd=ROOT, env=environment, **streams)
    deadline = time.monotonic() + 300
    while not len(list(out.glob("*_labels.png"))) > 2 and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and errors.splitlines()[-1] == "interrupted"
    (line,) = [line for line in said.splitlines() if "Interrupted: " in line]
    done = int(re.search(rf"Interrupted: (\d+) of {MANY} are done", line)[1])
    assert "Traceback" not in said + errors and 0 < done < MANY and "--resume" in line
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
    for path in out.glob("*.png"):
        Image.open(path).load()
    whole = len(list(out.glob("*_labels.png")))  # the last of them may not have been counted
    assert whole in (done, done + 1)
    for path in sorted(folder.iterdir())[whole + 5 :]:
        path.unlink()
    after = subprocess.run(
        [*command, "--resume", *options], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert after.returncode == 0, after.stderr
    assert f"--resume: {whole} of {whole + 5} are done" in after.stdout
