"""What a saved model holds, and that it answers bit by bit as before, wherever it lies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hyperclip import Predictor, Vocabulary, load_config
from hyperclip.adapters import adapters
from hyperclip.load import load_model
from hyperclip.pretrained.layout import ENTRIES
from hyperclip.tinyscenes.drawing import class_names, render_scene
from hyperclip.training.checks import check_training
from PIL import Image
from safetensors import safe_open

from tests.conftest import ROOT
from tests.helpers.model_folders import write_folder
from tests.pretrained.models import CPU, answer, require_same, trained_config, unmerged


def loaded(folder) -> Predictor:
    return Predictor.from_pretrained(folder, CPU)


def settings(folder: Path) -> dict:
    return yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def quickstart():
    return Predictor.from_pretrained("quickstart/hyperclip", CPU)


def test_quickstart_is_saved_moved_and_loaded(quickstart, tmp_path, monkeypatch):
    folder = quickstart.save_pretrained(tmp_path / "Modèle «1»")
    moved = folder.rename(tmp_path / "elsewhere of all")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.safetensors").write_text("another file of that name")
    require_same(quickstart, loaded("elsewhere of all"))
    assert {path.name for path in moved.iterdir()} == {*ENTRIES} - {"vocabulary.json"}
    assert [p.name for p in moved.rglob("*.safetensors")] == ["model.safetensors"]


@pytest.mark.parametrize("merged", [True, False])
@pytest.mark.parametrize("only", ["", "trained"])
@pytest.mark.parametrize("mode", ["lora", "relations", "attention", "hyperbolic+rotation"])
def test_every_adapter_merged_or_not(mode, only, merged, tmp_path):
    cfg = trained_config(tmp_path, "MODEL.SEM_SEG_HEAD.CLIP_FINETUNE", mode)
    predictor = Predictor.from_config(cfg) if merged else unmerged(cfg)
    folder = predictor.save_pretrained(tmp_path / "saved", only=only)
    (tmp_path / "trained checkpoint.pth").unlink()
    again = loaded(folder)
    assert again.model.trained_on == ("tinyscenes_train",)
    if merged:
        require_same(predictor, again)
    else:
        assert len(list(adapters(predictor.model))) >= 10
        keys = load_config(folder / "config.yaml", CPU)
        require_same(predictor, Predictor(load_model(keys, merged=False)))
    assert bool(settings(folder)["MODEL"].get("ADAPTER", {}).get("MERGED")) == (merged and not only)


def test_what_was_trained_is_a_small_part(tmp_path):
    predictor = Predictor.from_config(trained_config(tmp_path))
    whole = size(predictor.save_pretrained(tmp_path / "whole"))
    part = size(predictor.save_pretrained(tmp_path / "part", only="trained"))
    trained = sum(p.numel() for p in predictor.model.sem_seg_head.parameters()) + 98304
    assert 4 * trained < part < 4 * trained + 40_000 < whole / 10
    with safe_open(tmp_path / "part" / "model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["holds"]) == "trained"
    # saved again, it is the same
    again = loaded(tmp_path / "part")
    again.save_pretrained(tmp_path / "third", only="trained")
    require_same(predictor, loaded(tmp_path / "third"))


def test_what_was_trained_loads_over_the_same_clip_alone(tmp_path):
    predictor = Predictor.from_config(trained_config(tmp_path))
    folder = predictor.save_pretrained(tmp_path / "part", only="trained")
    for key, value in (("CLIP_WEIGHTS", "none"), ("SEM_SEG_HEAD.CLIP_FINETUNE", "none")):
        with pytest.raises(
            ValueError, match="whose own weights are others here .digest .*expected"
        ):
            Predictor.from_pretrained(folder, [*CPU, f"MODEL.{key}", value])
    wrong = [*CPU, "MODEL.SEM_SEG_HEAD.CLIP_FINETUNE", "lora"]
    with pytest.raises(ValueError, match="does not fit the model of this config"):
        Predictor.from_pretrained(folder, wrong)


@pytest.mark.parametrize("mode", ["context+stages", "hyperbolic", "hyperbolic+context"])
def test_towers_of_packages(mode, tmp_path):
    """The packages bring the rest; merged weights of the text tower are not in them."""
    if mode == "context+stages":
        predictor = Predictor.from_pretrained("photo-mini", CPU)
    else:
        keys = ["MODEL.SEM_SEG_HEAD.CLIP_FINETUNE", mode, "MODEL.SEM_SEG_HEAD.LOSS", "softmax"]
        keys += ["MODEL.ADAPTER.ENCODERS", "['text']", "MODEL.ADAPTER.BLOCK_SIZE", "32"]
        keys += ["MODEL.SEM_SEG_HEAD.SCALED_COSINE", "True"]
        cfg = trained_config(tmp_path, *keys, config="configs/photos/concepts.yaml")
        predictor = Predictor.from_config(cfg)
    folder = predictor.save_pretrained(tmp_path / "saved")
    require_same(predictor, loaded(folder), "flower; sky; a star, star")
    assert size(folder) < 50e6
    assert "mIoU 20.9" in (folder / "README.md").read_text() or mode != "context+stages"


def test_cliper_takes_its_local_models_along(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(ROOT / "configs/quickstart", source)
    predictor = Predictor.from_pretrained("quickstart/cliper", CPU)
    local = Predictor.from_config(source / "cliper.yaml", CPU)
    folder = local.save_pretrained(tmp_path / "saved")
    shutil.rmtree(source)
    again = loaded(folder)
    require_same(predictor, again)
    assert again.model.refiner is not None
    text = "".join(p.read_text() for p in folder.rglob("*") if p.suffix in (".yaml", ".md"))
    assert str(tmp_path) not in text and str(ROOT) not in text
    with pytest.raises(ValueError, match="CLIPer is training-free"):
        local.save_pretrained(tmp_path / "part", only="trained")


def test_pickled_weights_become_safetensors(tmp_path):
    """Of CLIP in a file of its own, and of one in a folder."""
    from safetensors.torch import load_file

    clip = tmp_path / "clip"
    shutil.copytree(ROOT / "configs/quickstart/tiny_scene_clip", clip)
    safe = clip / "open_clip_model.safetensors"
    torch.save(load_file(safe), clip / "open_clip_pytorch_model.bin")
    torch.save(load_file(safe), tmp_path / "mine.pt")
    safe.unlink()
    (clip / ".hidden").write_text("secret")
    (clip / "code.py").write_text("raise SystemExit")
    names = ["MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED", str(clip)]
    file = ["MODEL.CLIP_WEIGHTS", str(tmp_path / "mine.pt")]
    for keys in (names, [*names, *file]):
        config = "configs/quickstart/cliper_fusion.yaml"
        predictor = Predictor.from_config(config, [*CPU, *keys])
        folder = predictor.save_pretrained(tmp_path / f"saved{len(keys)}")
        require_same(predictor, loaded(folder))
        kept = {p.suffix for p in folder.rglob("*") if p.is_file()}
        assert kept == {".yaml", ".md", ".json", ".safetensors"}


def test_whole_models_say_what_a_clip_file_said(tmp_path):
    from safetensors.torch import load_file

    file = tmp_path / "mine.pt"
    torch.save(load_file(ROOT / "configs/quickstart/tiny_clip/open_clip_model.safetensors"), file)
    keys = ["MODEL.CLIP_WEIGHTS", str(file), "MODEL.CLIP_ACTIVATION", "gelu"]
    keys += ["MODEL.CLIP_PIXEL_MEAN", "[100.0, 110.0, 120.1]"]
    predictor = Predictor.from_config(trained_config(tmp_path, *keys))
    folder = predictor.save_pretrained(tmp_path / "saved")
    part = predictor.save_pretrained(tmp_path / "part", only="trained")
    file.unlink()
    require_same(predictor, loaded(folder))
    require_same(predictor, loaded(part))
    assert "CLIP_WEIGHTS" not in settings(folder)["MODEL"]


@pytest.mark.parametrize(
    ("vision", "text", "layers"), [("vit", "mean", "[0, 1]"), ("convnext", "custom", "[2, 1]")]
)
def test_clip_folders_of_other_families(vision, text, layers, tmp_path):
    """With the configuration and the tokenizer of a text tower of Hugging Face's."""
    clip = write_folder(tmp_path / "clip", vision, text, mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.25])
    keys = ["MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED", clip, "MODEL.ADAPTER.BLOCK_SIZE", "8"]
    keys += ["MODEL.SEM_SEG_HEAD.CLIP_LAYERS", layers, "MODEL.ADAPTER.ENCODERS", "['text']"]
    predictor = Predictor.from_config(trained_config(tmp_path, *keys))
    for only in ("", "trained"):
        predictor.save_pretrained(tmp_path / f"saved{only}", only=only)
    shutil.rmtree(clip)
    (tmp_path / "trained checkpoint.pth").unlink()
    for only in ("", "trained"):
        again = loaded(tmp_path / f"saved{only}")
        assert torch.equal(again.model.pixel_std, predictor.model.pixel_std)
        require_same(predictor, again, "dog; road; sky")


VOCABULARY = Vocabulary(
    (("red star", "étoile"), ("blue circle",), ('a "quoted" name',)),
    "mine",
    "3",
    negatives=("ground",),
)


@pytest.mark.parametrize("given", ["argument", "json", "typed"])
def test_the_vocabulary_travels(given, quickstart, tmp_path):
    predictor, options = quickstart, {}
    if given == "argument":
        options["vocabulary"] = VOCABULARY
    else:
        file = tmp_path / ("names.txt" if given == "typed" else "names.json")
        if given == "typed":
            file.write_text("red star, étoile; blue circle", encoding="utf-8")
        else:
            VOCABULARY.to_json(file)
        keys = [*CPU, "MODEL.SEM_SEG_HEAD.TEST_CLASS_JSON", str(file)]
        predictor = Predictor.from_pretrained("quickstart/hyperclip", keys)
    folder = predictor.save_pretrained(tmp_path / "saved", **options)
    expected = predictor.vocabulary if given == "typed" else VOCABULARY
    found = loaded(folder).vocabulary
    assert found == expected and found.typed == (given == "typed")
    require_same(predictor, loaded(folder), found)
    content = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
    assert content["name"] == expected.name and "étoile" in content["classes"][0]
    assert "red star" in (folder / "README.md").read_text(encoding="utf-8")
    assert quickstart.vocabulary is None


def test_the_card(quickstart, tmp_path):
    told = "46.1 mIoU on **unseen** phrases"
    folder = quickstart.save_pretrained(tmp_path / "a | b `c`", measured=told, name="x | y `z`")
    text = (folder / "README.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    metadata = yaml.safe_load(front)
    assert metadata["library_name"] == "hyperclip"
    assert metadata["pipeline_tag"] == "image-segmentation"
    assert metadata["datasets"] == ["tinyscenes_train"]
    assert told in body and "# x \\| y 'z'" in body
    count = sum(parameter.numel() for parameter in quickstart.model.parameters())
    assert f"CLIP model `tiny_clip`, {count:,} parameters in all" in body
    assert "from_pretrained('x | y `z`')" in body and "`tinyscenes_train`" in body
    quickstart.save_pretrained(tmp_path / "plain")
    assert "No figures were given" in (tmp_path / "plain" / "README.md").read_text()


def test_nothing_of_this_machine_is_in_the_config(tmp_path):
    keys = ["OUTPUT_DIR", str(tmp_path / "out"), "WANDB.PROJECT", "secret", "SEED", "7"]
    keys += ["DATALOADER.NUM_WORKERS", "3", "DATASETS.FILES", "['datasets/photos/msrc21.yaml']"]
    predictor = Predictor.from_config(trained_config(tmp_path, *keys))
    folder = predictor.save_pretrained(tmp_path / "saved")
    text = (folder / "config.yaml").read_text()
    for word in (str(tmp_path), "secret", "DATALOADER", "msrc21", "DEVICE", "OUTPUT_DIR"):
        assert word not in text
    assert "SEED: 7" in text and text.startswith("# A model that hyperclip saved.")


def test_whoever_reads_one_file_reads_all(quickstart, tmp_path):
    folder = quickstart.save_pretrained(tmp_path / "model")
    modes = {path.stat().st_mode for path in folder.rglob("*") if path.is_file()}
    (tmp_path / "plain").touch()
    assert modes == {(tmp_path / "plain").stat().st_mode}


def test_a_saved_model_is_replaced_and_what_is_beside_it_stays(quickstart, tmp_path):
    folder = tmp_path / "saved"
    folder.mkdir()  # an empty one is as good as none
    quickstart.save_pretrained(folder, vocabulary=VOCABULARY)
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("ref")
    (folder / "notes.txt").write_text("mine")
    quickstart.save_pretrained(folder)
    assert (folder / "notes.txt").read_text() == "mine" and (folder / ".git/HEAD").is_file()
    assert not (folder / "vocabulary.json").exists()
    require_same(quickstart, loaded(folder))
    again = loaded(folder)
    again.save_pretrained(folder)  # its files are copied from where they go
    require_same(quickstart, loaded(folder))


def test_a_folder_that_holds_something_else_is_refused(quickstart, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    (tmp_path / "config.yaml").write_text("a: config of another program")
    with pytest.raises(ValueError, match="is not empty and holds no saved model"):
        quickstart.save_pretrained(tmp_path)
    with pytest.raises(NotADirectoryError, match=r"photo.jpg' is a file"):
        quickstart.save_pretrained(tmp_path / "photo.jpg")
    with pytest.raises(OSError, match="a file is in the place of a folder"):
        quickstart.save_pretrained(tmp_path / "photo.jpg" / "model")
    assert {path.name for path in tmp_path.iterdir()} == {"photo.jpg", "config.yaml"}


@pytest.mark.parametrize("before", [True, False])
def test_a_failure_leaves_no_half_folder(before, quickstart, tmp_path, monkeypatch):
    folder = tmp_path / "saved"
    if before:
        quickstart.save_pretrained(folder)
    content = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    def fails(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hyperclip.pretrained.saving.card.model_card", fails)
    with pytest.raises(OSError, match="cannot be written: the system refuses it .No space left"):
        quickstart.save_pretrained(folder)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == content
    assert folder.exists() == before and len(list(tmp_path.iterdir())) == before


def test_a_failing_rename_puts_back_what_was_there(quickstart, tmp_path, monkeypatch):
    folder = quickstart.save_pretrained(tmp_path / "saved")
    content = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    rename, calls = Path.rename, []

    def third_fails(self, target):
        calls.append(self)
        if len(calls) == 4:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", third_fails)
    with pytest.raises(OSError, match="Input/output error"):
        quickstart.save_pretrained(folder, name="another")
    monkeypatch.undo()
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == content


def test_what_cannot_be_saved(quickstart, tmp_path):
    with pytest.raises(ValueError, match="made of a model alone, and saving needs its config"):
        Predictor(quickstart.model).save_pretrained(tmp_path / "a")
    with pytest.raises(ValueError, match="only: got 'adapters', expected '' .* or 'trained'"):
        quickstart.save_pretrained(tmp_path / "a", only="adapters")
    dense = Predictor.from_config("configs/quickstart/dense_clip.yaml", CPU)
    with pytest.raises(ValueError, match="nothing of this model trains"):
        dense.save_pretrained(tmp_path / "a", only="trained")
    again = loaded(dense.save_pretrained(tmp_path / "dense"))
    assert np.array_equal(answer(dense), answer(again))
    merged = loaded(quickstart.save_pretrained(tmp_path / "merged"))
    with pytest.raises(ValueError, match="the adapters of this model are merged into CLIP. Load"):
        merged.save_pretrained(tmp_path / "a", only="trained")
    assert not (tmp_path / "a").exists()


def test_another_checkpoint_by_now_is_noticed(tmp_path):
    predictor = Predictor.from_config(trained_config(tmp_path))
    file = tmp_path / "trained checkpoint.pth"
    content = torch.load(file)
    next(iter(content["model"].values())).add_(1)
    torch.save(content, file)
    with pytest.raises(ValueError, match="does not hold the weights that this model has"):
        predictor.save_pretrained(tmp_path / "a", only="trained")


def test_merged_adapters_do_not_train_on(tmp_path):
    predictor = Predictor.from_config(trained_config(tmp_path))
    folder = predictor.save_pretrained(tmp_path / "saved")
    cfg = load_config(folder / "config.yaml", CPU)
    with pytest.raises(ValueError, match="MODEL.ADAPTER.MERGED: got True, but the adapters"):
        check_training(cfg)


@pytest.mark.parametrize("only", ["", "trained"])
def test_nothing_of_images_is_saved(tmp_path, caplog, only):
    """A memory bank, examples and files of regions are named in a line instead; other stages stay
    on.
    """
    image, label = render_scene("val_seen", 0)
    names = class_names("seen")
    k = int(np.unique(label)[0])
    own = tmp_path / "examples" / names[k]
    own.mkdir(parents=True)
    Image.fromarray(image).save(own / "a.png")
    Image.fromarray(np.where(label == k, 255, 0).astype(np.uint8)).save(own / "a_mask.png")
    (tmp_path / "regions").mkdir()
    Image.fromarray(label).save(tmp_path / "regions/a.png")
    keys = [*CPU, "TEST.EXAMPLES.FOLDER", str(tmp_path / "examples"), "TEST.EXAMPLES.TAKE", "False"]
    keys += ["TEST.REGIONS.NAME", "files", "TEST.REGIONS.FOLDER", str(tmp_path / "regions")]
    keys += ["TEST.REFINER.NAME", "guided", "TEST.BANK.WEIGHT", "0.5"]
    predictor = Predictor.from_pretrained("quickstart/hyperclip", keys)
    with caplog.at_level("WARNING", logger="hyperclip.pretrained.saving"):
        folder = predictor.save_pretrained(tmp_path / "saved", only=only)
    line = "leaves out TEST.EXAMPLES.FOLDER, TEST.REGIONS.FOLDER: nothing of images is saved"
    assert line in caplog.text
    test = settings(folder)["TEST"]
    assert test["REFINER"] == {"NAME": "guided"} and test["EXAMPLES"] == {"TAKE": False}
    assert "REGIONS" not in test and not list(folder.rglob("*.png"))
    again, plain = loaded(folder), Predictor.from_pretrained("quickstart/hyperclip", keys[-4:])
    found = again.segment(again.encode(image), names, scores=True)
    expected = plain.segment(plain.encode(image), names, scores=True)
    np.testing.assert_array_equal(found.scores, expected.scores)
    with caplog.at_level("WARNING", logger="hyperclip.pretrained.saving"):
        caplog.clear()
        again.save_pretrained(tmp_path / "saved again")
    assert not caplog.text
