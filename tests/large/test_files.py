"""What large images are read from and written to: values, bands, no data, maps and polygons."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hyperclip.large import Request, output, raster, segment_file
from hyperclip.large.raster import open_raster
from hyperclip.segmenter import Question
from hyperclip.vocabulary import Vocabulary
from PIL import Image
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.transform import Affine
from rasterio.warp import transform as transform_points
from shapely.geometry import Point, shape

from tests.helpers.large import COLORS, MAP, NAMES, blobs, cheap, write_map

SIZE = (90, 120)
ROTATED = Affine.translation(500_000, 5_500_000) @ Affine.rotation(20) @ Affine.scale(0.5, -0.5)


def write(path, bands, **options):
    """Bands (C, H, W) as a TIFF file, a map or not."""
    profile = {"driver": "GTiff", "count": len(bands), "dtype": bands.dtype, **options}
    with rasterio.open(path, "w", height=bands.shape[1], width=bands.shape[2], **profile) as file:
        file.write(bands)
    return path


def seen(path, *options):
    """All pixels of a file as a model sees them, and which are there."""
    with open_raster(path, *options) as image:
        return image.read_box(image.whole)


def segmented(source, target, **options):
    return segment_file(cheap(), source, target, NAMES, **{"window": 64, **options})


@pytest.fixture
def picture():
    return blobs(*map(range, SIZE))


@pytest.mark.parametrize("transform", [MAP, ROTATED], ids=["north up", "rotated"])
def test_a_map_stays_where_it_is(tmp_path, transform):
    source = write_map(tmp_path / "map.tif", *SIZE, transform=transform, nodata=7)
    areas = segmented(source, tmp_path / "out.tif")
    segmented(source, tmp_path / "part.tif", extent=(30, 20, 100, 80))
    with (
        rasterio.open(source) as before,
        rasterio.open(tmp_path / "out.tif") as file,
        rasterio.open(tmp_path / "part.tif") as part,
    ):
        assert (file.crs, file.transform, file.shape) == (before.crs, transform, before.shape)
        assert (file.dtypes[0], file.nodata, file.count) == ("uint8", 255, 1)
        assert file.profile["tiled"] and json.loads(file.tags()["NAMES"]) == [
            "red",
            "green",
            "blue",
        ]
        assert file.colormap(1)[0][:3] == (13, 0, 255)
        assert part.transform @ (0, 0) == transform @ (30, 20) and part.shape == (60, 70)
        counts = np.bincount(file.read(1).ravel(), minlength=256)
    assert list(areas.classes.values()) == counts[:3].tolist()
    assert (areas.no_class, areas.no_data) == (0, counts[255])


def test_classes_of_one_name_are_counted_together(tmp_path):
    """A released list has names twice, of which the first is predicted."""
    source = write_map(tmp_path / "map.tif", *SIZE)
    once = segmented(source, tmp_path / "once.tif").classes
    assert all(once.values())
    twice = Vocabulary((*[(name,) for name in COLORS], ("red", "rose")))
    found = segment_file(cheap(), source, tmp_path / "twice.tif", twice, window=64)
    assert found.classes == once


def test_a_file_that_reads_otherwise_is_refused(tmp_path):
    """As one that a full disk cut short."""
    source = write_map(tmp_path / "map.tif", *SIZE)
    areas = segmented(source, tmp_path / "out.tif")
    counts = np.zeros(256, np.int64)
    counts[:3] = list(areas.classes.values())
    output.require_counts(tmp_path / "out.tif", counts)
    with pytest.raises(OSError, match="reads otherwise; is the disk full"):
        output.require_counts(tmp_path / "out.tif", counts[::-1])


def test_no_data_stays_no_data_and_is_not_seen(tmp_path, picture):
    picture = picture.copy()
    picture[picture == 0] = 1
    gap = (slice(None), slice(10, 50), slice(20, 60))
    picture[gap] = 0
    black = picture.copy()
    black[0, 70:, 90:] = 0  # in one band alone is a colour
    source = write(tmp_path / "a.tif", black, nodata=0, crs="EPSG:32632", transform=MAP)
    areas = segmented(source, tmp_path / "out.tif")
    with rasterio.open(tmp_path / "out.tif") as file:
        labels = file.read(1)
    assert ((labels == 255) == (black == 0).all(axis=0)).all() and areas.no_data == 1600
    floats = picture.astype(np.float32)
    floats[gap] = np.nan
    floats[1, 80, 80] = np.nan
    source = write(tmp_path / "b.tif", floats, crs="EPSG:32632", transform=MAP)
    segmented(source, tmp_path / "nan.tif", value_range=(0, 255))
    with rasterio.open(tmp_path / "nan.tif") as file:
        assert ((file.read(1) == 255) == np.isnan(floats).any(axis=0)).all()


def test_windows_without_data_are_skipped(tmp_path):
    bands = np.zeros((3, 64, 640), np.uint8)
    bands[:, :, :64] = blobs(range(64), range(64)) | 1
    predictor = cheap()
    source = write(tmp_path / "a.tif", bands, nodata=0)
    segment_file(predictor, source, tmp_path / "out.tif", NAMES, window=64, tile=256)
    assert predictor.model.seen == 9  # of 63; the first three columns of three rows
    with rasterio.open(tmp_path / "out.tif") as file:
        assert (file.read(1)[:, 64:] == 255).all() and (file.read(1)[:, :64] < 3).all()


def test_alpha_is_no_data(tmp_path, picture):
    alpha = np.full((1, *SIZE), 255, np.uint8)
    alpha[0, :30] = 0
    source = write(
        tmp_path / "a.tif", np.concatenate([picture, alpha]), photometric="rgb", alpha="yes"
    )
    pixels, valid = seen(source)
    assert (valid == (alpha[0] > 0)).all()
    np.testing.assert_array_equal(pixels.transpose(2, 0, 1), picture)


@pytest.mark.parametrize("kind", ["uint16", "int16", "float32", "uint32", "float64", "int8"])
def test_other_values_than_8_bits_need_a_range(tmp_path, picture, kind):
    small = kind == "int8"
    values = (picture // 2 if small else picture.astype(np.float64) * 10 + 100).astype(kind)
    source = write(tmp_path / "a.tif", values)
    low, high = (0, 127) if small else (100, 2650)
    pixels, _ = seen(source, (), (low, high))
    assert np.abs(pixels.transpose(2, 0, 1).astype(int) - picture).max() <= 1 + small
    with pytest.raises(ValueError, match=f"got {kind} values.*--value-range") as caught:
        seen(source)
    given = [float(word) for word in str(caught.value).split("--value-range ")[1].split()]
    assert given == pytest.approx(np.percentile(values, (1, 99)), rel=0.05, abs=1)


def test_bands(tmp_path, picture):
    five = np.concatenate([picture[::-1], np.zeros((2, *SIZE), np.uint8)])
    source = write(tmp_path / "five.tif", five, photometric="minisblack")
    np.testing.assert_array_equal(seen(source)[0].transpose(2, 0, 1), picture[::-1])
    with open_raster(source) as image:
        assert image.remark.endswith("five.tif: bands [1, 2, 3] of 5")
    np.testing.assert_array_equal(seen(source, (3, 2, 1))[0].transpose(2, 0, 1), picture)
    grey = seen(source, (2,))[0]
    assert (grey == picture[1][..., None]).all()
    for bands in ((1, 2), (0, 1, 2), (1, 2, 6)):
        with pytest.raises(ValueError, match="bands: got .*, expected three of 1 to 5"):
            seen(source, bands)
    grey = write(tmp_path / "grey.tif", picture[:1])
    assert (seen(grey)[0] == picture[0][..., None]).all()
    with rasterio.open(source, "r+") as file:
        file.colorinterp = [ColorInterp[name] for name in ("blue", "green", "red", "gray", "gray")]
    np.testing.assert_array_equal(seen(source)[0].transpose(2, 0, 1), picture)


def test_palettes_and_single_bits(tmp_path):
    values = (np.arange(90 * 120).reshape(1, *SIZE) % 3).astype(np.uint8)
    colors = [(1, 2, 3), (40, 50, 60), (255, 128, 7)]
    source = tmp_path / "palette.tif"
    with rasterio.open(
        source, "w", driver="GTiff", count=1, dtype="uint8", height=90, width=120,
        photometric="palette",
    ) as file:  # fmt: skip
        file.write(values)
        file.write_colormap(1, dict(enumerate(colors)))
    np.testing.assert_array_equal(seen(source)[0], np.array(colors)[values[0]])
    bits = write(tmp_path / "bits.tif", (values > 0).astype(np.uint8), nbits=1)
    assert (seen(bits)[0] == 255 * (values[0] > 0)[..., None]).all()


def test_polygons_are_where_the_classes_are(tmp_path):
    source = write_map(tmp_path / "map.tif", *SIZE)
    outlines = tmp_path / "out.geojson"
    segmented(source, tmp_path / "out.tif", polygons=outlines)
    document = json.loads(outlines.read_text())
    assert document["type"] == "FeatureCollection" and "crs" not in document
    shapes = [(shape(f["geometry"]), f["properties"]) for f in document["features"]]
    with rasterio.open(tmp_path / "out.tif") as file:
        labels = file.read(1)
        generator = np.random.default_rng(0)
        for row, column in zip(
            generator.integers(0, 90, 40), generator.integers(0, 120, 40), strict=True
        ):
            x, y = file.xy(row, column)
            (longitude,), (latitude,) = transform_points(file.crs, CRS.from_epsg(4326), [x], [y])
            inside = [p for s, p in shapes if s.contains(Point(longitude, latitude))]
            assert [p["label"] for p in inside] == [labels[row, column]]
            assert inside[0]["class"] == ["red", "green", "blue"][labels[row, column]]


def test_polygons_of_an_image_that_is_no_map_are_in_pixels(tmp_path, picture, caplog):
    source = write(tmp_path / "a.tif", picture)
    outlines = tmp_path / "out.geojson"
    with caplog.at_level(logging.INFO, "hyperclip"):
        logging.getLogger("hyperclip").propagate = True
        areas = segmented(source, tmp_path / "out.tif", polygons=outlines)
    assert "polygons in pixels, since the image says nothing of a map" in caplog.text
    totals = dict.fromkeys(areas.classes, 0.0)
    for feature in json.loads(outlines.read_text())["features"]:
        totals[feature["properties"]["class"]] += shape(feature["geometry"]).area
    assert totals == areas.classes
    with rasterio.open(tmp_path / "out.tif") as file:
        assert file.crs is None and file.transform == Affine.identity()


def test_other_formats_are_decoded_as_a_whole(tmp_path, picture):
    source = tmp_path / "a.png"
    Image.fromarray(picture.transpose(1, 2, 0)).save(source)
    np.testing.assert_array_equal(seen(source)[0], picture.transpose(1, 2, 0))
    with open_raster(source) as image:
        assert "decoded as a whole, 0 MB; only TIFF files are read by windows" in image.remark
    with pytest.raises(ValueError, match=r"allow more by .* INPUT\.MAX_PIXELS"):
        seen(source, (), None, 0, 100)
    for bands, limits, what in (((1,), None, "bands"), ((), (0, 1), "value range")):
        with pytest.raises(ValueError, match=f"{what}: got a png file, expected a TIFF file"):
            seen(source, bands, limits)


def test_files_that_cannot_be_read(tmp_path, picture, monkeypatch):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        seen(tmp_path / "none.tif")
    (tmp_path / "bad.tif").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"bad\.tif' cannot be read"):
        seen(tmp_path / "bad.tif")
    source = write(tmp_path / "a.tif", picture)
    for limits in ((5, 5), (9, 1), (0, np.inf)):
        with pytest.raises(ValueError, match="value range: got .*, expected two numbers"):
            seen(source, (), limits)
    with pytest.raises(ValueError, match="expected real numbers"):
        seen(write(tmp_path / "complex.tif", picture.astype(np.complex64)))
    turned = tmp_path / "turned.tif"
    Image.fromarray(picture.transpose(1, 2, 0)).save(turned, tiffinfo={274: 6})
    with pytest.raises(ValueError, match="orientation tag is 6"):
        seen(turned)
    monkeypatch.setattr(raster, "LARGEST_BLOCK", 1000)
    with pytest.raises(ValueError, match="Store it in tiles: rio convert"):
        seen(source)
    monkeypatch.setattr(raster.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'not installed: pip install "\.\[maps\]" in the repo'):
        seen(source)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": "out.png"}, "output: got .*, expected a name that ends in .tif"),
        ({"polygons": "out.gpkg"}, "polygons: got .*, expected a name that ends in .geojson"),
        ({"window": 63}, "window: got 63, expected an even number"),
        ({"tile": -1}, "tile: got -1, expected a number from 0 on"),
        ({"batch": 0}, "batch: got 0, expected a number from 1 on"),
        ({"extent": (0, 0, 121, 90)}, "extent: got 0 0 121 90, expected .* 120 x 90 pixels"),
        ({"extent": (5, 0, 5, 90)}, "extent: got 5 0 5 90, expected left < right"),
        ({"output": "a.tif"}, "is the input. Choose another name"),
        ({"output": "there.tif"}, "is there. Choose another name, or restart"),
    ],
)
def test_requests_that_cannot_be(tmp_path, picture, options, message):
    source = write(tmp_path / "a.tif", picture)
    (tmp_path / "there.tif").write_bytes(b"")
    options = {k: tmp_path / v if isinstance(v, str) else v for k, v in options.items()}
    with pytest.raises((ValueError, FileExistsError), match=message):
        segment_file(cheap(), source, options.pop("output", tmp_path / "out.tif"), NAMES, **options)
    assert (tmp_path / "there.tif").read_bytes() == b""
    assert not list(tmp_path.glob("*.parts"))


def test_questions_that_need_the_whole_image(tmp_path, picture):
    source = write(tmp_path / "a.tif", picture)
    question = Question.of(NAMES, class_threshold=0.5)
    with pytest.raises(ValueError, match="class threshold: it asks for a class's best pixel"):
        segment_file(cheap(), source, tmp_path / "out.tif", question, window=64)


def test_too_many_classes():
    with pytest.raises(ValueError, match="classes: got 70000, expected at most 65534"):
        Request(*map(Path, ("a.tif", "b.tif"))).open(70_000).__enter__()
