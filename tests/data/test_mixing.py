"""Several datasets in one stream of batches: one question a batch, shares, and going on."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hyperclip.data.batches import TrainSamples, TrainStream
from hyperclip.data.mixing import TrainPart, images_of_epoch

SIZES = {"a": 10, "b": 7, "more of a": 5}
QUESTION = {"a": "A", "b": "B", "more of a": "A"}


class Mapper:
    """A sample is its record and a random number; images of ``broken`` cannot be read."""

    def __init__(self, broken=()):
        self.broken = set(broken)

    def __call__(self, record):
        if record["name"] in self.broken:
            raise ValueError(f"{record['name']} is cut short")
        return {**record, "number": np.random.rand()}


def parts(names=tuple(SIZES), broken=()):
    return [
        TrainPart(
            [
                {"name": f"{name} {k}", "width": 5 + k % 2, "height": 5 + k % 3}
                for k in range(SIZES[name])
            ],
            Mapper(broken),
            {"vocabulary": QUESTION[name], "ignore_label": 255 - len(QUESTION[name])},
        )
        for name in names
    ]


def stream(batch=4, seed=0, weights=(), broken=(), names=tuple(SIZES), **options):
    samples = TrainSamples(parts(names, broken), seed, weights)
    return TrainStream(samples, batch, **{"max_faulty": 0.01, **options})


def take(loader, count):
    iterator = iter(loader)
    found = list(itertools.islice(iterator, count))
    iterator.close()
    return found


def set_of(sample):
    return sample["name"].rpartition(" ")[0]


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("weights", [(), (1, 5, 1)])
def test_a_batch_has_one_question(grouped, weights):
    """That of its datasets, two of which share theirs and are mixed."""
    batches = take(stream(weights=weights, grouped=grouped), 60)
    for batch in batches:
        (question,) = {sample["vocabulary"] for sample in batch}
        assert all(QUESTION[set_of(sample)] == question for sample in batch)
        assert not grouped or len({x["width"] > x["height"] for x in batch}) == 1
    assert {sample["vocabulary"] for batch in batches for sample in batch} == {"A", "B"}
    assert any(len({set_of(x) for x in batch}) == 2 for batch in batches)
    positions = sorted(x["position"] for batch in batches for x in batch)
    assert len(set(positions)) == len(positions) and positions[:150] == list(range(150))


def test_without_weights_every_image_comes_once_an_epoch():
    samples, total = TrainSamples(parts(), 3), sum(SIZES.values())
    for epoch in range(3):
        drawn = [samples.index(epoch * total + k) for k in range(total)]
        assert sorted(drawn) == list(range(total))
        assert drawn == np.random.default_rng([3, epoch]).permutation(total).tolist()


def test_datasets_that_share_their_question_are_the_stream_of_one():
    """Order, random numbers and state are those of all their images in one dataset."""
    joined = TrainPart([x for p in parts(("a", "more of a")) for x in p.records], Mapper())
    alone = TrainStream(TrainSamples([joined], 0), 4, max_faulty=0.01)
    shared = stream(names=("a", "more of a"))
    expected = [[(x["name"], x["number"]) for x in batch] for batch in take(alone, 9)]
    assert [[(x["name"], x["number"]) for x in batch] for batch in take(shared, 9)] == expected
    assert shared.state_dict() == alone.state_dict()


@pytest.mark.parametrize("weights", [(2, 1, 1), (1, 20, 1), (0.5, 0.25, 4)])
def test_weights_say_how_often_a_dataset_comes(weights):
    """And each image of a dataset comes as often as the others of it, up to one."""
    samples = TrainSamples(parts(), 0, weights)
    length = sum(samples.shares)
    assert abs(length - sum(SIZES.values())) <= 2
    drawn = [
        samples.records[samples.index(p)]["name"] for p in range(40 * length)
    ]  # several epochs of its own for each
    of_set = Counter(name.rpartition(" ")[0] for name in drawn)
    for name, weight in zip(SIZES, weights, strict=True):
        assert of_set[name] / len(drawn) == pytest.approx(weight / sum(weights), abs=0.04)
        often = [Counter(drawn)[f"{name} {k}"] for k in range(SIZES[name])]
        assert max(often) - min(often) <= 1
    assert drawn[:length] != drawn[length : 2 * length]


def test_a_dataset_has_an_order_of_its_own_each_time_it_begins_anew():
    """Else the same half of its images would always come in one epoch."""
    samples = TrainSamples(parts(("a", "b")), 0, (5, 12))
    assert samples.shares == (5, 12)
    firsts = []
    for epoch in range(8):
        drawn = [samples.index(epoch * 17 + k) for k in range(17)]
        firsts.append(frozenset(k for k in drawn if k < SIZES["a"]))
    assert all(len(a | b) == 10 for a, b in zip(firsts[::2], firsts[1::2], strict=True))
    assert len(set(firsts[::2])) > 2


def test_a_weight_however_small_brings_images():
    assert images_of_epoch((100, 5)) == (100, 5)
    assert images_of_epoch((100, 5), (1e6, 1.0)) == (105, 1)


@pytest.mark.parametrize("weights", [(), (1, 5, 1)])
@pytest.mark.parametrize("grouped", [False, True])
def test_processes_share_the_batches_of_one_and_any_number_goes_on(weights, grouped):
    options = {"weights": weights, "grouped": grouped}
    whole_stream = stream(**options)
    whole = take(whole_stream, 20)
    pair = [stream(rank=rank, processes=2, **options) for rank in range(2)]
    halves = [take(s, 8) for s in pair]
    assert [a + b for a, b in zip(*halves, strict=True)] == whole[:8]
    states = [s.state_dict() for s in pair]
    assert states[0]["waiting"]
    alone = stream(seed=9, **options)
    alone.load_state_dicts(states)
    assert take(alone, 12) == whole[8:]
    count = {"seen": 0}  # of what a process itself has read
    assert alone.state_dict() | count == whole_stream.state_dict() | count
    assert take(stream(workers=2, **options), 6) == whole[:6]


def test_steps_are_counted_by_question():
    loader = stream()
    asked = [batch[0]["vocabulary"] for batch in take(loader, 30)]
    assert loader.batches == [asked.count("A"), asked.count("B")] and min(loader.batches) > 0


def test_a_checkpoint_without_counts_goes_on():
    """As written before datasets could be mixed."""
    first = stream(names=("a",))
    whole = take(first, 3)
    assert first.batches == [3]
    state = {k: v for k, v in first.state_dict().items() if k != "batches"}
    other = stream(names=("a",))
    other.load_state_dicts([state])
    assert other.batches == [3] and take(other, 2) == take(stream(names=("a",)), 5)[3:] != whole


def test_an_unreadable_image_is_replaced_by_one_of_the_same_question():
    broken = {f"b {k}" for k in range(3)}
    loader = stream(broken=broken, max_faulty=1.0)
    batches = take(loader, 20)
    names = {x["name"] for batch in batches for x in batch if x["vocabulary"] == "B"}
    assert names == {f"b {k}" for k in range(3, 7)} and loader.faulty > 3
    assert all(QUESTION[set_of(x)] == x["vocabulary"] for batch in batches for x in batch)
