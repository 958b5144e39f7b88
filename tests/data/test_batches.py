"""The stream of training batches: order, places of processes, unreadable images, and going on."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from hyperclip.data.batches import FEW, TrainSamples, TrainStream, is_wide
from hyperclip.data.mixing import TrainPart
from hyperclip.runtime.randomness import kept_random_state, random_state, seeded, set_random_state
from PIL import ExifTags, Image

SIZE = 10


class Mapper:
    """A sample is its record and random numbers; records of ``broken`` cannot be read."""

    def __init__(self, broken=()):
        self.broken = set(broken)

    def __call__(self, record):
        k = record["k"]
        if k in self.broken:
            raise ValueError(f"{k}.jpg is cut short")
        numbers = (random.random(), np.random.rand(), torch.rand(()).item())
        return {**record, "numbers": numbers}


def stream(batch=4, broken=(), seed=0, **options):
    records = [{"k": k, "width": 5 + k % 2, "height": 5 + k % 3} for k in range(SIZE)]
    samples = TrainSamples([TrainPart(records, Mapper(broken))], seed)
    return TrainStream(samples, batch, **{"max_faulty": 0.01, **options})


def take(loader, count):
    """The next batches, in short; the loader stays usable."""
    iterator = iter(loader)
    found = [
        [(x["position"], x["k"], x["numbers"]) for x in batch]
        for batch in itertools.islice(iterator, count)
    ]
    iterator.close()
    return found


def test_every_epoch_has_each_picture_once_in_an_order_of_its_own():
    drawn = [x for batch in take(stream(5), 6) for x in batch]
    epochs = [[k for _, k, _ in drawn[i : i + SIZE]] for i in range(0, 30, SIZE)]
    assert (
        all(sorted(epoch) == list(range(SIZE)) for epoch in epochs)
        and epochs[0] != epochs[1] != epochs[2]
    )
    assert [p for p, _, _ in drawn] == list(range(30))
    assert [x for batch in take(stream(5, seed=1), 2) for x in batch] != drawn[:SIZE]


def test_neither_workers_nor_processes_change_a_sample():
    once = {x[0]: x for batch in take(stream(), 6) for x in batch}
    assert len({x[2] for x in once.values()}) == 24
    for options in ({"workers": 2}, {"workers": 0}):
        assert {x[0]: x for batch in take(stream(**options), 6) for x in batch} == once
    parts = [take(stream(rank=rank, processes=2), 6) for rank in range(2)]
    assert [a + b for a, b in zip(*parts, strict=True)] == take(stream(), 6)


def test_random_numbers_outside_stay_as_they_were():
    def numbers():
        return random.random(), np.random.rand(), torch.rand(()).item()

    state = random_state()
    expected = numbers()
    for spend in (lambda: take(stream(), 3), lambda: take(stream(workers=1), 3)):
        set_random_state(state)
        spend()
        assert numbers() == expected
    set_random_state(state)
    with kept_random_state():
        numbers()
    assert numbers() == expected
    with seeded(1, 2):
        first = numbers()
    with seeded(1, 2):
        assert numbers() == first


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("processes", [1, 2])
def test_it_goes_on_where_it_was(grouped, processes):
    for rank in range(processes):
        options = {"grouped": grouped, "rank": rank, "processes": processes}
        whole = take(stream(**options), 9)
        for cut in (0, 1, 4):
            first = [stream(**{**options, "rank": r}) for r in range(processes)]
            begun = [take(s, cut) for s in first]
            other = stream(seed=5, **options)
            other.load_state_dicts([s.state_dict() for s in first])
            assert begun[rank] + take(other, 9 - cut) == whole


def test_groups_are_wide_or_high():
    batches = list(itertools.islice(iter(stream(3, grouped=True)), 30))
    assert all(len({x["width"] > x["height"] for x in batch}) == 1 for batch in batches)
    positions = sorted(x["position"] for batch in batches for x in batch)
    assert positions[:80] == list(range(80))


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_groups_of_one(processes):
    """And they go on as any other number of processes, with what waits for its group."""
    whole = take(stream(6, grouped=True), 8)
    first = [stream(6, grouped=True, rank=rank, processes=processes) for rank in range(processes)]
    parts = [take(s, 4) for s in first]
    assert [[x for part in batch for x in part] for batch in zip(*parts, strict=True)] == whole[:4]
    assert first[0].waiting and all(s.waiting == first[0].waiting for s in first)
    alone = stream(6, grouped=True)
    alone.load_state_dicts([s.state_dict() for s in first])
    assert take(alone, 4) == whole[4:]


def test_the_head_of_a_file_says_whether_it_is_wide(tmp_path):
    for name, size, tag in (
        ("wide", (8, 6), 1),
        ("high", (6, 8), 3),
        ("turned", (8, 6), 6),
        ("square", (6, 6), 1),
    ):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = tag
        Image.new("RGB", size).save(tmp_path / f"{name}.jpg", exif=exif)
    (tmp_path / "broken.jpg").write_bytes((tmp_path / "wide.jpg").read_bytes()[:20])
    names = ("wide", "high", "turned", "square", "broken", "absent")
    found = {name: is_wide({"file_name": str(tmp_path / f"{name}.jpg")}) for name in names}
    assert found == {**dict.fromkeys(names, False), "wide": True}
    assert is_wide({"file_name": str(tmp_path / "turned.jpg"), "orientation": "stored"})
    assert is_wide({"width": 3, "height": 2}) and not is_wide({"width": 2, "height": 3})


def test_another_number_of_processes():
    first = [stream(rank=rank, processes=2) for rank in range(2)]
    for s in first:
        take(s, 3)
    other = stream()
    other.load_state_dicts([s.state_dict() for s in first])
    assert take(other, 2) == take(stream(), 5)[3:]
    with pytest.raises(ValueError, match="SOLVER.IMS_PER_BATCH: got 8, the run had 4"):
        stream(8).load_state_dicts([s.state_dict() for s in first])


def test_unreadable_pictures_are_replaced_counted_and_logged(caplog):
    loader = stream(broken=[3], max_faulty=0.2)
    drawn = [x for batch in take(loader, 10) for x in batch]
    assert {k for _, k, _ in drawn} == set(range(SIZE)) - {3} and [p for p, _, _ in drawn] == list(
        range(40)
    )
    assert loader.faulty >= 4 and loader.seen == 40
    assert sum("3.jpg is cut short" in message for message in caplog.messages) == loader.faulty
    assert drawn == [
        x for batch in take(stream(broken=[3], max_faulty=0.2, workers=2), 10) for x in batch
    ]


def test_too_many_unreadable_pictures():
    with pytest.raises(
        ValueError,
        match=rf"1 of .* more than DATALOADER.MAX_FAULTY_SHARE 0.0 of at least {FEW}.*3.jpg is cut",
    ):
        take(stream(broken=[3], max_faulty=0.0), 5)
    with pytest.raises(ValueError, match="11 of .* training images could not be read"):
        take(stream(broken=[1, 2, 3], max_faulty=0.1), 100)
    with pytest.raises(
        ValueError, match="10 training images, drawn one after another, could not be read"
    ):
        take(stream(broken=range(SIZE)), 1)
