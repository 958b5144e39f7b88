"""Which files are data, and which image belongs to which label."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from hyperclip.commands.demo_inputs import find_inputs
from hyperclip.data import find_dataset
from hyperclip.data.checking import check_dataset, spread
from hyperclip.data.dataset_file import register_files
from hyperclip.data.label_maps import LABEL_MAPS, read_label, read_record_label
from hyperclip.data.pairing import is_hidden, read_list, walk
from PIL import Image

from tests.conftest import SHARED
from tests.helpers import fake_trees

CASES = SHARED / "cases"


def save(path: Path, value: int | None = None) -> None:
    """An image, or a label of one value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB" if value is None else "L", (4, 3), 0 if value is None else value).save(path)


@pytest.fixture
def split(tmp_path):
    """Register a dataset with these keys of its split; returns it."""

    def register(**keys):
        keys = {"images": "photos", "labels": "masks"} | keys
        text = "\n".join(f"    {key}: {value}" for key, value in keys.items())
        path = tmp_path / "set.yaml"
        path.write_text(
            f"name: {tmp_path.name}\nsplits:\n  val:\n{text}\nclasses: [a, b, c, d]\n",
            encoding="utf-8",
        )
        return register_files([path])[0]

    return register


def pairs(spec):
    return {
        Path(r["file_name"]).name: (
            Path(r["sem_seg_file_name"]).name,
            int(read_record_label(r)[0, 0]),
        )
        for r in DatasetCatalog.get(spec.name)
    }


HIDDEN = [
    ".ipynb_checkpoints/a-checkpoint",
    "._a",
    ".a",
    ".hidden/deep/a",
    "__MACOSX/._a",
    "__MACOSX/a",
    "@eaDir/a",
    "sub/.thumbs/a",
    ".DS_Store/a",
    ".Trash-1000/files/a",
]


@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_names_are_no_data(split, tmp_path, name):
    save(tmp_path / "photos/a.jpg")
    save(tmp_path / "masks/a.png", 1)
    save(tmp_path / f"photos/{name}.jpg")
    save(tmp_path / f"masks/{name}x.png", 2)
    spec = split()
    assert pairs(spec) == {"a.jpg": ("a.png", 1)} and check_dataset(spec, 0).status == "ready"


def test_a_hidden_folder_may_hold_the_data(split, tmp_path):
    save(tmp_path / ".cache/photos/a.jpg")
    save(tmp_path / ".cache/masks/a.png", 1)
    assert len(pairs(split(images=".cache/photos", labels=".cache/masks"))) == 1
    assert not is_hidden("a.b.jpg") and not is_hidden("_a.jpg")


@pytest.mark.parametrize(
    "suffix", [".tif", ".TIFF", ".webp", ".gif", ".jp2", ".ppm", ".JPG", ".avif", ".tga", ".jfif"]
)
def test_whatever_the_reader_opens_is_an_image(split, tmp_path, suffix):
    save(tmp_path / f"photos/a{suffix}")
    save(tmp_path / "masks/a.png", 1)
    spec = split()
    assert pairs(spec) == {f"a{suffix}": ("a.png", 1)}
    assert check_dataset(spec, 0).status == "ready"


@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF", ".bmp"])
def test_labels_of_every_format(split, tmp_path, suffix):
    save(tmp_path / "photos/a.jpg")
    save(tmp_path / f"masks/a{suffix}", 3)
    assert pairs(split()) == {"a.jpg": (f"a{suffix}", 3)}


def test_what_was_left_out_is_listed(split, tmp_path):
    save(tmp_path / "photos/a.jpg")
    save(tmp_path / "masks/a.png", 1)
    save(tmp_path / "masks/b.png", 1)
    save(tmp_path / "masks/c.jpg", 1)
    (tmp_path / "photos/b.heic").write_bytes(b"x")
    with pytest.raises(ValueError) as error:
        pairs(split())
    text = str(error.value)
    assert "no image for" in text and "1 *.heic (b.heic …); images are .jpg" in text
    assert "1 *.jpg (c.jpg …); labels are .png" in text and "keep every value" in text
    (tmp_path / "masks/b.png").unlink()
    report = check_dataset(split(), 0)
    assert report.status == "ready" and any(".heic" in line for line in report.left_out)
    for path in (tmp_path / "masks").glob("*.png"):
        path.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"no label .*left out in .*masks: 1 \*.jpg \(c.jpg"
    ):
        pairs(split())


@pytest.mark.parametrize(
    ("images", "labels", "keys"),
    [
        ("data/{}.png", "data/{}_mask.png", {"label_affix": '["", "_mask"]'}),
        ("data/{}.jpg", "data/{}_mask.png", {"label_affix": '["", "_mask"]'}),
        ("data/{}_rgb.png", "data/{}.png", {"image_affix": '["", "_rgb"]'}),
        ("data/{}.tif", "data/gt_{}.tif", {"label_affix": '["gt_", ""]'}),
        (
            "data/{}_rgb.png",
            "data/{}_id.png",
            {"image_affix": '["", "_rgb"]', "label_affix": '["", "_id"]'},
        ),
        ("data/{}.jpg", "data/{}.png", {}),
        ("data/{}.png", "data/masks/{}.png", {"labels": "data/masks"}),
        ("data/photos/{}.png", "data/{}.png", {"images": "data/photos"}),
    ],
)
def test_images_and_labels_in_one_folder(split, tmp_path, images, labels, keys):
    for k, name in enumerate(("x", "y", "sub/z")):
        save(tmp_path / images.format(name) if "sub" not in name else tmp_path / images.format("z"))
        save(
            tmp_path / labels.format(name) if "sub" not in name else tmp_path / labels.format("z"),
            k,
        )
    spec = split(**{"images": "data", "labels": "data", **keys})
    expected = {
        Path(images.format(n)).name: (Path(labels.format(n)).name, k) for k, n in enumerate("xyz")
    }
    assert pairs(spec) == expected and check_dataset(spec, 0).status == "ready"


def test_a_file_that_could_be_both_is_an_error(split, tmp_path):
    save(tmp_path / "data/x.png")
    with pytest.raises(
        ValueError, match="x.png could be an image and a label: give one of them an affix"
    ):
        pairs(split(images="data", labels="data"))


@pytest.mark.parametrize(
    "forms",
    [("NFC", "NFD", "NFC"), ("NFD", "NFC", "NFC"), ("NFD", "NFD", "NFC"), ("NFC", "NFC", "NFD")],
)
def test_names_compare_in_nfc(split, tmp_path, forms):
    image, label, line = (unicodedata.normalize(form, "Zürich/café") for form in forms)
    affix = unicodedata.normalize("NFC", "_ö")
    save(tmp_path / unicodedata.normalize("NFD", "fotos é") / f"{image}.jpg")
    save(tmp_path / f"masks/{label}{unicodedata.normalize('NFD', affix)}.png", 2)
    (tmp_path / "val.txt").write_text(line, encoding="utf-8")
    for keys in ({}, {"list": "val.txt"}):
        spec = split(
            images=unicodedata.normalize("NFC", "fotos é"), label_affix=f'["", "{affix}"]', **keys
        )
        assert [value for _, value in pairs(spec).values()] == [2]


LISTS = {
    "keys": "a 1\nsub/b\n",
    "names": "a 1.jpg\nsub/b.jpg\n",
    "labels": "a 1_id.png\nsub/b_id.png\n",
    "pairs": "a 1.jpg a 1_id.png\nsub/b.jpg sub/b_id.png\n",
    "tabs": "a 1.jpg\ta 1_id.png\nsub/b.jpg\tsub/b_id.png\n",
    "commas": "a 1.jpg,a 1_id.png\nsub/b.jpg, sub/b_id.png\n",
    "quotes": '"a 1.jpg";"a 1_id.png"\n"sub/b.jpg";"sub/b_id.png"\n',
    "folders": "photos/a 1.jpg masks/a 1_id.png\nphotos/sub/b.jpg masks/sub/b_id.png\n",
    "slash": "/photos/a 1.jpg /masks/a 1_id.png\n/photos/sub/b.jpg /masks/sub/b_id.png\n",
    "dots": "./photos/a 1.jpg ./masks/a 1_id.png\n../{0}/photos/sub/b.jpg ../{0}/masks/sub/b_id.png\n",  # noqa: E501
    "absolute": "{1}/photos/a 1.jpg {1}/masks/a 1_id.png\n{1}/photos/sub/b.jpg\n",
    "backslashes": "photos\\a 1.jpg masks\\a 1_id.png\nphotos\\sub\\b.jpg masks\\sub\\b_id.png\n",
    "backslash keys": "a 1\nsub\\b\n",
    "numbers": "sub/b -1\na 1\n",
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("kind", LISTS)
def test_lists_of_every_kind(split, tmp_path, kind, end, encoding):
    for k, name in enumerate(("a 1", "sub/b", "not_listed")):
        save(tmp_path / f"photos/{name}.jpg")
        save(tmp_path / f"masks/{name}_id.png", k)
    text = LISTS[kind].format(tmp_path.name, tmp_path).replace("\n", end)
    (tmp_path / "val.txt").write_bytes(text.encode(encoding))
    spec = split(list="val.txt", label_affix='["", "_id"]')
    assert pairs(spec) == {"a 1.jpg": ("a 1_id.png", 0), "b.jpg": ("b_id.png", 1)}


def test_pairs_of_different_names(split, tmp_path):
    for k, (image, label) in enumerate((("x", "m7"), ("y", "m3"))):
        save(tmp_path / f"photos/{image}.jpg")
        save(tmp_path / f"masks/{label}.png", k)
    (tmp_path / "val.txt").write_text("photos/x.jpg masks/m7.png\ny.jpg m3.png\n")
    assert pairs(split(list="val.txt")) == {"x.jpg": ("m7.png", 0), "y.jpg": ("m3.png", 1)}
    (tmp_path / "val.txt").write_text("photos/x.jpg masks/m8.png\n")
    with pytest.raises(ValueError, match="no label for masks/m8.png, listed in"):
        pairs(split(list="val.txt"))


def test_folders_in_a_list_have_to_be_the_split_s_own(split, tmp_path):
    """The line names the training image of that name, which is not this split's."""
    save(tmp_path / "photos/val/a.jpg")
    save(tmp_path / "masks/val/a.png", 1)
    (tmp_path / "val.txt").write_text("photos/train/a.jpg\n")
    with pytest.raises(ValueError, match="no image for photos/train/a, listed in"):
        pairs(split(images="photos/val", labels="masks/val", list="val.txt"))
    (tmp_path / "val.txt").write_text("val/a.jpg\n")
    assert len(pairs(split(images="photos/val", labels="masks/val", list="val.txt"))) == 1


def test_a_list_in_utf_16(tmp_path):
    (tmp_path / "a.txt").write_bytes("a\r\nü\r\n".encode("utf-16"))
    assert read_list(tmp_path / "a.txt") == ["a", "ü"]


def test_the_demo_takes_no_hidden_names(tmp_path):
    for name in ("a.jpg", "b.webp", "c.tif", "._a.jpg", ".b.png"):
        save(tmp_path / name)
    assert [path.name for path in find_inputs([str(tmp_path)])] == ["a.jpg", "b.webp", "c.tif"]


def test_links_that_lead_back_end(tmp_path):
    for name in ("in/a.jpg", "in/x/b.jpg", "beside/c.jpg"):
        save(tmp_path / name)
    (tmp_path / "in/x/up").symlink_to("..")
    (tmp_path / "in/beside").symlink_to("../beside")
    (tmp_path / "beside/back").symlink_to("../in")
    found = sorted(path.relative_to(tmp_path).as_posix() for path in walk(tmp_path / "in"))
    assert found == ["in/a.jpg", "in/beside/c.jpg", "in/x/b.jpg"]
    assert list(walk(tmp_path / "none")) == list(walk(tmp_path / "in/a.jpg")) == []


# Trees that MMSegmentation's converters leave


def stuff_tree(root: Path, folder: str = "coco-stuff") -> list[np.ndarray]:
    """COCO-Stuff with raw maps and, beside each, its converted map; returns the labels as
    classes.
    """
    fake_trees.coco_stuff(root)
    if folder != "coco-stuff":
        (root / "coco-stuff").rename(root / folder)
    wanted = (
        [read_record_label(r) for r in DatasetCatalog.get(find_dataset("stuff").name)]
        if folder == "coco-stuff"
        else []
    )
    for path in sorted((root / folder / "annotations").rglob("*.png")):
        converted = Image.fromarray(read_label(path, LABEL_MAPS["coco_stuff"]).astype(np.uint8))
        converted.save(path.with_name(f"{path.stem}_labelTrainIds.png"))
        Image.new("L", converted.size, 17).save(path.with_name(f"{path.stem}_instanceTrainIds.png"))
    return wanted


@pytest.mark.parametrize("beside", [True, False])
def test_converted_maps_beside_or_instead_of_raw_ones(tmp_path, monkeypatch, beside):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    wanted = stuff_tree(tmp_path)
    folder = tmp_path / "coco-stuff/annotations/val2017"
    if not beside:
        for path in folder.glob("*[0-9].png"):
            path.unlink()
    records = DatasetCatalog.get(find_dataset("stuff").name)
    assert len(records) == 2 and check_dataset(find_dataset("stuff"), 0).status == "incomplete"
    assert all(("labelTrainIds" in r["sem_seg_file_name"]) != beside for r in records)
    for record, label in zip(records, wanted, strict=True):
        np.testing.assert_array_equal(read_record_label(record), label)
    # values count from 1, 0 is the background
    objects = DatasetCatalog.get(find_dataset("object").name)
    assert [set(np.unique(read_record_label(r))) for r in objects] == [{16}, {16}]


def test_the_folder_name_of_mmsegmentation(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    stuff_tree(tmp_path, "coco_stuff164k")
    assert len(DatasetCatalog.get(find_dataset("stuff").name)) == 2
    assert len(DatasetCatalog.get(find_dataset("stuff_train").name)) == 2


def test_the_preparation_takes_raw_maps_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    stuff_tree(tmp_path)
    save(tmp_path / "coco-stuff/annotations/val2017/.ipynb_checkpoints/a-checkpoint.png", 0)
    save(tmp_path / "coco-stuff/annotations/val2017/._000000000139.png", 0)
    assert fake_trees.prepare("coco_stuff", tmp_path, "val2017").written == 2
    assert sorted(
        p.name for p in (tmp_path / "coco-stuff/annotations_detectron2/val2017").iterdir()
    ) == ["000000000139.png", "000000000285.png"]


# The sample that is opened


@pytest.mark.parametrize(
    ("count", "samples"), [(99, 50), (100, 50), (51, 50), (5000, 50), (7, 3), (1449, 100)]
)
def test_the_sample_is_spread_over_all(count, samples):
    chosen = spread(count, samples)
    assert len(set(chosen)) == samples and chosen[0] == 0 and chosen[-1] == count - 1
    gaps = np.diff(chosen)
    assert gaps.min() >= (count - 1) // (samples - 1) and gaps.max() <= -(
        -(count - 1) // (samples - 1)
    )
    assert (
        spread(count, 0) == spread(count, count) == spread(count, count + 1) == list(range(count))
    )
    assert spread(count, 1) == [0]


def test_a_fault_in_the_last_file_is_found(split, tmp_path):
    for k in range(7):
        save(tmp_path / f"photos/{k}.jpg")
        save(tmp_path / f"masks/{k}.png", 9 if k == 6 else 1)
    assert check_dataset(split(), samples=4).status == "faulty"


def test_a_tagged_image_outside_the_sample_is_found(split, tmp_path):
    for k in range(9):
        save(tmp_path / f"photos/{k}.jpg")
        save(tmp_path / f"masks/{k}.png", 1)
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.new("RGB", (4, 3)).save(tmp_path / "photos/5.jpg", exif=exif)
    (fault,) = check_dataset(split(), samples=2).faults
    assert "photos/5.jpg': its EXIF orientation is 8" in fault


@pytest.mark.skipif(not CASES.is_dir(), reason="the small inputs (../shared/cases) are not here")
def test_recorded_cases(monkeypatch):
    for case, file in (("hidden_copies", "d"), ("image_and_mask_in_one_folder", "d")):
        (spec,) = register_files([CASES / case / f"{file}.yaml"])
        report = check_dataset(spec, 0)
        assert report.status == "ready" and report.images == 3, report.faults
    monkeypatch.setenv("DETECTRON2_DATASETS", str(CASES / "converted_coco_stuff"))
    report = check_dataset(find_dataset("stuff"), 0)
    assert report.images == 8 and not report.faults
