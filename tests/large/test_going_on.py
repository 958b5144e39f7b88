"""A run that ended early goes on, and gives the same bytes; one of other settings does not."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
import torch
from hyperclip import Predictor, load_config
from hyperclip.large import pieces, segment_file
from hyperclip.large.lattice import Box

from tests.helpers.large import NAMES, Cheap, cheap, write_map


def segment(source, output, predictor=None, **options):
    options = {"window": 64, "tile": 128, **options}
    return segment_file(predictor or cheap(), source, output, NAMES, **options)


def run_slowly(source, output):
    """A run that pauses after each piece, in a process of its own."""
    torch.set_num_threads(1)
    segment(
        source, output, polygons=output.with_suffix(".geojson"), progress=lambda *_: time.sleep(0.2)
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_map(tmp_path_factory.mktemp("source") / "map.tif", 130, 200)


def bytes_of(output):
    return output.read_bytes(), output.with_suffix(".geojson").read_bytes()


def test_a_killed_run_goes_on_and_gives_the_same_bytes(tmp_path, source):
    whole, output = tmp_path / "whole.tif", tmp_path / "out.tif"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        full = cheap()
        areas = segment(source, whole, full, polygons=whole.with_suffix(".geojson"))
        process = multiprocessing.get_context("fork").Process(
            target=run_slowly, args=(source, output)
        )
        process.start()
        parts = pieces.folder_of(output)
        limit = time.monotonic() + 60
        while len(list(parts.glob("*.npz"))) < 3 and time.monotonic() < limit:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL and not output.exists()
        done = len(list(parts.glob("*.npz")))
        assert 3 <= done < 10
        rest = cheap()
        again = segment(source, output, rest, polygons=output.with_suffix(".geojson"))
    finally:
        torch.set_num_threads(threads)
    assert bytes_of(output) == bytes_of(whole) and again == areas
    assert 0 < rest.model.seen < full.model.seen and not parts.exists()


def stop_at(number):
    def progress(done, total):
        nonlocal number
        number -= 1
        if not number:
            raise KeyboardInterrupt

    return progress


def interrupted(source, output, **options):
    with pytest.raises(KeyboardInterrupt):
        segment(source, output, progress=stop_at(3), **options)


def test_other_settings_are_refused_unless_it_starts_anew(tmp_path, source):
    output = tmp_path / "out.tif"
    interrupted(source, output)
    others = {
        "window": {"window": 32},
        "tile": {"tile": 64},
        "extent": {"extent": (0, 0, 50, 50)},
        "bands": {"bands": (3, 2, 1)},
        "weights": {},
        "settings": {"predictor": cheap(context=0.5)},
    }
    changed = cheap()
    changed.model.register_buffer("more", torch.ones(3))
    others["weights"]["predictor"] = changed
    for what, options in others.items():
        with pytest.raises(
            ValueError, match=f"earlier run with another {what}: got .*, or restart"
        ):
            segment(source, output, **options)
    with pytest.raises(ValueError, match="earlier run with another question"):
        segment_file(cheap(), source, output, "red; blue", window=64, tile=128)
    plain = tmp_path / "plain.tif"
    segment(source, plain, extent=(0, 0, 50, 50))
    segment(source, output, extent=(0, 0, 50, 50), restart=True)
    assert output.read_bytes() == plain.read_bytes()
    segment(source, output, extent=(0, 0, 60, 60), restart=True)
    assert output.read_bytes() != plain.read_bytes()


def test_another_config_is_refused(tmp_path, source):
    """By the key that differs, whatever the system says of itself; so are other contents of a
    folder that has its name.
    """
    output, regions = tmp_path / "out.tif", tmp_path / "regions"
    regions.mkdir()
    (regions / "a.png").write_bytes(b"before")
    base = ["MODEL.DEVICE", "cpu", "TEST.REGIONS.FOLDER", str(regions)]

    def configured(*keys):
        config = load_config("configs/quickstart/hyperclip_trained.yaml", [*base, *keys])
        return Predictor(Cheap(), config=config)

    interrupted(source, output, predictor=configured())
    for key, value in (
        ("TEST.BACKGROUND_THRESHOLD", "0.9"),
        ("TEST.REFINER.GUIDED.RADIUS", "0.5"),
        ("TEST.REGIONS.SUPERPIXELS.NUMBER", "9"),
        ("MODEL.PROMPT_ENSEMBLE_TYPE", "imagenet"),
        ("INPUT.MIN_SIZE_TEST", "77"),
    ):
        with pytest.raises(ValueError, match=f"earlier run with another {key}: got .*, or restart"):
            segment(source, output, configured(key, value))
    (regions / "a.png").write_bytes(b"after")
    with pytest.raises(ValueError, match="another content of TEST.REGIONS.FOLDER: got"):
        segment(source, output, configured())
    (regions / "a.png").write_bytes(b"before")
    harmless = ("OUTPUT_DIR", "elsewhere", "SEED", "3", "SOLVER.MAX_ITER", "7")
    segment(source, output, configured(*harmless))
    assert output.is_file()


def test_another_input_is_refused(tmp_path):
    source, output = write_map(tmp_path / "map.tif", 130, 130), tmp_path / "out.tif"
    interrupted(source, output)
    write_map(source, 130, 130, first=(5, 5))
    with pytest.raises(ValueError, match="earlier run with another input"):
        segment(source, output)


def test_a_full_disk_is_one_line_and_the_rest_goes_on(tmp_path, source, monkeypatch):
    output, whole = tmp_path / "out.tif", tmp_path / "whole.tif"
    segment(source, whole)
    with monkeypatch.context() as patch:
        written, original = [], np.savez_compressed

        def save(file, **arrays):
            written.append(file)
            if len(written) == 4:
                file.write(b"half")
                raise OSError(errno.ENOSPC, "No space left on device")
            original(file, **arrays)

        patch.setattr(pieces.np, "savez_compressed", save)
        with pytest.raises(OSError, match="No space left on device.*the same command goes on") as e:
            segment(source, output)
        assert "\n" not in str(e.value)
    assert len(list(pieces.folder_of(output).glob("*.npz"))) == 3 and not output.exists()
    segment(source, output)
    assert output.read_bytes() == whole.read_bytes()


def test_a_damaged_piece_is_named_and_computed_anew(tmp_path, source):
    output, whole = tmp_path / "out.tif", tmp_path / "whole.tif"
    segment(source, whole)
    interrupted(source, output)
    damaged = next(pieces.folder_of(output).glob("*.npz"))
    damaged.write_bytes(damaged.read_bytes()[:40])
    with pytest.raises(ValueError, match="was damaged and is removed. Give the same command again"):
        segment(source, output)
    predictor = cheap()
    segment(source, output, predictor)
    assert output.read_bytes() == whole.read_bytes() and 0 < predictor.model.seen < 40


@pytest.mark.parametrize("at", range(3, 200, 7))
def test_a_byte_that_has_changed(tmp_path, at):
    """Wherever it is, the labels are what was kept, or the piece is removed and named."""
    box, labels = Box(0, 30, 0, 40), np.arange(1200, dtype=np.uint8).reshape(30, 40) % 5
    kept = pieces.Pieces(tmp_path / "out.tif", {})
    kept.add(box, labels)
    (file,) = kept.folder.glob("*.npz")
    content = bytearray(file.read_bytes())
    content[at] ^= 0x55
    file.write_bytes(content)
    try:
        assert (kept.read(box) == labels).all()
    except ValueError as error:
        assert "was damaged and is removed" in str(error) and box not in kept
