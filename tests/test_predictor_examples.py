"""Examples of a predictor, of a folder, of the demo and of the page."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hyperclip import Predictor
from hyperclip.commands import demo
from hyperclip.config import load_config
from hyperclip.data.example_files import read_folder
from hyperclip.page.answers import Answers, Limits, Request
from hyperclip.page.examples import MOST
from hyperclip.page.systems import Offer, Systems
from hyperclip.segmenter import Question
from hyperclip.stages import examples_of
from hyperclip.tinyscenes.drawing import class_names, render_scene
from hyperclip.tinyscenes.examples import LEAST_PIXELS, render_examples
from PIL import Image

CONFIG, CPU = "configs/quickstart/dense_clip.yaml", ["MODEL.DEVICE", "cpu"]
TRAINED = "configs/quickstart/hyperclip_trained.yaml"
IMAGE, LABEL = render_scene("val_seen", 0)
K = int(np.bincount(LABEL[LABEL != 255]).argmax())
NAME = class_names("seen")[K]
OTHERS = [name for name in class_names("seen")[:4] if name != NAME]
NAMES = [*OTHERS, NAME]


@pytest.fixture(scope="module")
def predictor():
    return Predictor.from_config(CONFIG, CPU)


@pytest.fixture
def folder(tmp_path):
    own = tmp_path / "examples" / NAME
    own.mkdir(parents=True)
    Image.fromarray(IMAGE).save(own / "a.png")
    Image.fromarray((LABEL == K).astype(np.uint8) * 255).save(own / "a_mask.png")
    return own.parent


def scores(predictor, **options):
    return predictor.segment(predictor.encode(IMAGE), NAMES, scores=True, **options).scores


def test_added_and_cleared(predictor, folder):
    before, encoded = scores(predictor), predictor.encode(IMAGE)
    predictor.add_examples(IMAGE, LABEL == K, NAME.upper())
    shown = predictor.segment(encoded, NAMES, scores=True).scores
    np.testing.assert_array_equal(shown[:-1], before[:-1])
    assert not np.array_equal(shown[-1], before[-1])
    labels, best = predictor.top(encoded, NAMES, 1)
    np.testing.assert_allclose(best[0], shown.max(0), atol=1e-3)
    with pytest.raises(ValueError, match="examples: got some of .* expected names of the classes"):
        predictor.segment(encoded, OTHERS)
    with pytest.raises(ValueError, match="examples: got some of"):
        predictor(["never read.png"], OTHERS)
    with pytest.raises(ValueError, match="got words=False, expected True"):
        predictor.add_examples(IMAGE, LABEL == K, NAME, words=False)
    predictor.clear_examples()
    np.testing.assert_array_equal(scores(predictor), before)
    alone = [predictor.example(folder / NAME / "a.png", folder / NAME / "a_mask.png", NAME)]
    question = Question.of(NAMES, scores=True)
    np.testing.assert_array_equal(predictor.answer(encoded, question, alone).scores, shown)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.ones((5, 6), bool), "mask of 'cat': got 5 x 6, expected .* 96 x 96"),
        (np.zeros((96, 96), np.uint8), "mask of 'cat': got an empty one"),
        (torch.ones(96, 96), r"mask: got float32 \(96, 96\), expected bool or whole"),
        (np.ones((96, 96, 3), np.uint8), r"mask: got uint8 \(96, 96, 3\)"),
    ],
)
def test_masks_that_are_refused(predictor, mask, words):
    with pytest.raises(ValueError, match=words):
        predictor.add_examples(IMAGE, mask, "cat")
    with pytest.raises(ValueError, match="empty name"):
        predictor.add_examples(IMAGE, LABEL == K, " ")
    assert scores(predictor).shape[0] == len(NAMES)


def test_a_folder_of_a_config_is_what_was_added(predictor, folder):
    staged = Predictor.from_config(CONFIG, [*CPU, "TEST.EXAMPLES.FOLDER", str(folder)])
    predictor.add_examples(IMAGE, LABEL == K, NAME)
    np.testing.assert_array_equal(scores(staged), scores(predictor))
    predictor.clear_examples()
    staged.clear_examples()
    assert len(examples_of(staged.model)) == 1
    (folder / "examples_only.txt").write_text(f"{NAME}\n")
    assert [files.words for files in read_folder(folder)] == [False]


def test_examples_that_take_nothing(folder):
    """Classes without examples are answered as by words, others among themselves."""
    taking, yielding = (
        Predictor.from_config(TRAINED, [*CPU, "TEST.EXAMPLES.TAKE", value])
        for value in ("True", "False")
    )
    names = class_names("seen")
    shown = [k for k in np.unique(LABEL).tolist() if k != 255]
    scenes = [render_scene("val_seen", index)[0] for index in range(1, 4)]
    before = np.stack([taking.segment(taking.encode(scene), names).labels for scene in scenes])
    for predictor in (taking, yielding):
        for k in shown:
            predictor.add_examples(IMAGE, LABEL == k, names[k])
    taken, kept = (
        np.stack([p.segment(p.encode(scene), names).labels for scene in scenes])
        for p in (taking, yielding)
    )
    others = ~np.isin(before, shown)
    np.testing.assert_array_equal(kept[others], before[others])
    assert np.isin(kept[~others], shown).all() and (kept != before).any()
    assert (taken[others] != before[others]).any()
    assert np.isin(taken[~others], shown).all()


def test_folders_that_are_refused(folder):
    own = folder / NAME
    with pytest.raises(FileNotFoundError, match="expected a folder of NAME/IMAGE.jpg"):
        read_folder(folder / "none")
    (folder / "examples_only.txt").write_text("thing 7\n")
    with pytest.raises(ValueError, match="got 'thing 7', which has no examples"):
        read_folder(folder)
    (folder / "examples_only.txt").unlink()
    Image.new("L", (96, 96)).save(own / "a_mask.png")
    with pytest.raises(ValueError, match="a_mask.png': got an empty one"):
        read_folder(folder)
    Image.new("L", (9, 8), 1).save(own / "a_mask.png")
    with pytest.raises(
        ValueError, match="got 8 x 9, expected the image's height and width 96 x 96"
    ):
        read_folder(folder)
    (own / "a_mask.png").rename(own / "b_mask.png")
    with pytest.raises(FileNotFoundError, match="a.png' has no mask, expected a_mask.png"):
        read_folder(folder)
    (own / "a.png").unlink()
    with pytest.raises(ValueError, match="b_mask.png' has no image"):
        read_folder(folder)
    (own / "b_mask.png").unlink()
    with pytest.raises(ValueError, match="has none, expected images"):
        read_folder(folder)


def test_the_demo_says_at_once_what_is_wrong(folder, tmp_path):
    (folder.parent / "a.png").write_bytes((folder / NAME / "a.png").read_bytes())
    given = ["--input", str(folder.parent / "a.png"), "--output", str(tmp_path / "out")]
    given += ["--config-file", CONFIG, "--vocabulary"]
    with pytest.raises(FileNotFoundError, match="expected a folder of NAME"):
        demo.main([*given, "cat; dog", "--examples", "none", "--opts", *CPU])
    with pytest.raises(ValueError, match="examples: got some of"):
        demo.main([*given, "cat; dog", "--examples", str(folder), "--opts", *CPU])
    words = "; ".join(NAMES)
    assert demo.main([*given, words, "--examples", str(folder), "--opts", *CPU]) == 0


def test_examples_of_visitors_are_their_own(folder):
    own = folder / NAME
    answers = Answers(Systems({"dense": Offer(CONFIG, tuple(CPU))}), Limits(10**6, 2**20))
    files, words = (str(own / "a.png"), str(own / "a_mask.png")), "; ".join(NAMES)
    assert answers.show("ann", "dense", f" {NAME} ", *files) == 1
    assert answers.shown.of("bob") == ()

    def ask(visitor):
        request = Request("dense", files[0], words, examples=answers.shown.of(visitor))
        answer = answers.ask(request)
        return answers.best(answer.token, len(NAMES)).scores  # of every class

    plain, shown = ask("bob"), ask("ann")
    assert not np.array_equal(plain, shown)
    for _ in range(MOST - 1):
        answers.show("ann", "dense", NAME, *files)
    with pytest.raises(ValueError, match=f"got more than {MOST}"):
        answers.show("ann", "dense", NAME, *files)
    with pytest.raises(ValueError, match="type the name of its class"):
        answers.show("bob", "dense", " ", *files)
    answers.shown.forget("ann")
    assert answers.shown.of("ann") == ()


def test_examples_of_tinyscenes():
    few = {}
    for name, image, mask in render_examples(1):
        few[name] = (image, mask)
        assert image.shape == (96, 96, 3) and np.count_nonzero(mask) >= LEAST_PIXELS
        assert set(np.unique(mask)) == {0, 255}
    assert sorted(few) == sorted(class_names())
    first = next(iter(render_examples(2)))
    np.testing.assert_array_equal(first[1], few[first[0]][0])


def test_the_key_means_off():
    assert load_config(CONFIG).TEST.EXAMPLES.FOLDER == ""


def test_examples_beside_stages_that_look_at_files(folder, tmp_path):
    """An example is seen by the system alone: its file needs no regions."""
    np.save(tmp_path / "scene.npy", np.ones((96, 96), np.int64))
    keys = ["MODEL.DEVICE", "cpu", "TEST.EXAMPLES.FOLDER", str(folder)]
    keys += ["TEST.REGIONS.NAME", "files", "TEST.REGIONS.FOLDER", str(tmp_path)]
    predictor = Predictor.from_config(CONFIG, keys)
    scene = predictor.encode(np.asarray(Image.open(folder / NAME / "a.png")), "scene.png")
    answer = predictor.segment(scene, f"{NAME}; wall")
    assert len(np.unique(answer.labels)) == 1
