"""The memory bank: neighbours and scores against the reference; off and empty; file and model."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hyperclip import load_config
from hyperclip.load import build_system, load_model
from hyperclip.pretrained.portable import portable_settings
from hyperclip.segmenter import Question
from hyperclip.stages import (
    REGIONS_REGISTRY,
    Bank,
    Cutter,
    GrowingBank,
    Memory,
    MemoryOptions,
    ModelPrint,
    RecordProposer,
    Staged,
    neighbours,
    read_bank,
    write_bank,
)
from hyperclip.stages.bank_file import BankImage
from hyperclip.stages.cutting import EACH_CELL, pooled, squares
from hyperclip.tinyscenes.drawing import render_scene
from hyperclip.training.checks import check_training
from safetensors.torch import load_file, save_file

from reference import memory as reference
from tests.helpers.systems import GivenSystem

WORDS = "red plain circle, circle; blue striped star; green dotted cross"
IMAGES = [torch.from_numpy(render_scene("val_seen", i)[0].transpose(2, 0, 1)) for i in range(2)]
SIZE, CPU = (60, 70), ["MODEL.DEVICE", "cpu"]
DENSE = "configs/quickstart/dense_clip.yaml"
OPTIONS = MemoryOptions(16, 0.5, 0.5)


def unit(*shape, seed=0, dim=-1):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator), dim=dim)


@pytest.fixture(scope="module")
def dense():
    return build_system(load_config(DENSE, CPU)).eval()


def same(one, other):
    assert torch.equal(one.labels, other.labels)
    assert torch.equal(one.confidence, other.confidence)


@pytest.mark.parametrize("many", [False, True])
def test_neighbours_are_those_of_brute_force(monkeypatch, many):
    """By torch, in chunks of queries, and by faiss."""
    bank, queries = unit(200, 16), unit(30, 16, seed=1)
    monkeypatch.setattr(neighbours, "EXACT", 199 if many else 200)
    monkeypatch.setattr(neighbours, "AT_A_TIME", 7 * 200)
    found = neighbours.Neighbours(bank)
    assert (found._index is not None) == many
    expected = [reference.nearest(query, bank, 5) for query in queries]
    assert found.search(queries, 5).tolist() == expected
    means = torch.stack([F.normalize(bank[places].mean(0), dim=0) for places in expected])
    torch.testing.assert_close(found.means(queries, 5), means, atol=1e-5, rtol=1e-5)
    assert found.search(queries, 1000).shape == (30, 200)


def test_many_regions_without_faiss(monkeypatch):
    monkeypatch.setattr(neighbours, "EXACT", 5)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"bank of 6 regions, expected 5 at most.*\.\[bank\]"):
        neighbours.Neighbours(unit(6, 4))


def halves(images):
    """Two regions, and a column of none."""
    regions = torch.zeros(images[0].shape[1:], dtype=torch.int64)
    regions[len(regions) // 2 :], regions[:, 0] = 4, -1
    return [regions] * len(images)


@pytest.mark.parametrize("lowest", [0.2, -0.4])
@pytest.mark.parametrize("owners", [[0, 1, 2], [0, 0, 1, 1, 2]])
@pytest.mark.parametrize("cutter", [EACH_CELL, Cutter(halves, "halves", 1)])
def test_scores_against_the_reference(owners, cutter, lowest):
    image, bank, text = unit(8, 4, 5, dim=0), unit(40, 8, seed=1), unit(len(owners), 8, seed=2)
    scores = lowest + torch.rand(3, 9, 10, generator=torch.Generator().manual_seed(3))
    system = GivenSystem(text, owners, scores)
    staged = Staged(system, [Memory(bank, MemoryOptions(3, 0.4, 0.7), cutter)])
    question = Question.of(WORDS, scores=True)
    answer = staged.segment(staged.encode([image])[0], question, (9, 10))
    regions = halves([image])[0] if cutter.proposer else torch.arange(20).view(4, 5)
    mixed = reference.remembered(image, regions, bank, 3, 0.4)
    expected = reference.reweighted(scores, image, mixed, text, owners, 5.0, 0.7)
    torch.testing.assert_close(answer.scores, expected, atol=1e-5, rtol=1e-5)
    assert (answer.scores - scores).abs().max() > 0.01


def test_cells_of_no_region_keep_their_embeddings():
    image, bank = unit(8, 4, 5, dim=0), unit(40, 8, seed=1)
    system = GivenSystem(unit(3, 8, seed=2), [0, 1, 2], torch.rand(3, 4, 5))
    nothing = Cutter(lambda images: [torch.full((4, 5), -1)] * len(images), "nothing", 1)
    for cutter, columns in ((Cutter(halves, "halves", 1), 1), (nothing, 5)):
        (seen,) = Memory(bank, OPTIONS, cutter).see([image], [image], system)
        assert torch.equal(seen.own[:, :, :columns], seen.mixed[:, :, :columns])
        assert columns == 5 or not torch.allclose(seen.own, seen.mixed)


def test_numbers_of_regions():
    """However large they are the regions are the same; those below -1 are refused."""
    image = unit(8, 4, 5, dim=0)
    own, places = Cutter(halves, "halves", 1).regions(image, image)
    large = Cutter(lambda x: [r.where(r < 0, r + 2**40) for r in halves(x)], "large", 1)
    for found, expected in zip(large.regions(image, image), (own, places), strict=True):
        assert torch.equal(found, expected)
    below = Cutter(lambda x: [r - 1 for r in halves(x)], "below", 1)
    with pytest.raises(ValueError, match="regions: got -2 from 'below', expected numbers from 0"):
        below.regions(image, image)


@pytest.mark.parametrize("config", ["dense_clip", "hyperclip", "cliper_fusion"])
@pytest.mark.parametrize("synonyms", ["first", "max"])
def test_an_empty_bank_changes_no_bit(config, synonyms):
    keys = [*CPU, "MODEL.SYNONYMS", synonyms]
    system = build_system(load_config(f"configs/quickstart/{config}.yaml", keys)).eval()
    encoded = system.encode(IMAGES[:1])[0]
    width = len(system.features(encoded))
    off = [Memory(torch.empty(0, width), OPTIONS)]
    off += [Memory(unit(9, width), replace(OPTIONS, mix=0.0))]
    off += [Memory(unit(9, width), replace(OPTIONS, weight=0.0))]
    for question in (Question.of(WORDS), Question.of(WORDS, negatives="grey ground")):
        plain = system.answer(encoded, question, SIZE)
        for memory in off:
            staged = Staged(system, [memory])
            same(staged.answer(staged.encode(IMAGES[:1])[0], question, SIZE), plain)
        staged = Staged(system, [Memory(unit(9, width), OPTIONS)])
        other = staged.answer(staged.encode(IMAGES[:1])[0], question, SIZE)
        assert not torch.equal(other.confidence, plain.confidence)


def test_squares_and_their_means():
    assert squares((3, 5), 2).tolist() == [[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 4, 4, 5]]
    image = unit(8, 3, 5, dim=0)
    means, places = pooled(image, squares((3, 5), 2))
    assert torch.equal(places, squares((3, 5), 2))
    torch.testing.assert_close(means[0], F.normalize(image[:, :2, :2].mean((1, 2)), dim=0))
    torch.testing.assert_close(means[5], image[:, 2, 4])


def a_bank(model, images=3, cells=2, seed=0):
    listed = tuple(BankImage(f"{i}.png", f"{seed}{i}" * 32, i) for i in range(images))
    count = sum(image.regions for image in listed)
    cut = Cutter(None, "none", cells).describe()
    return Bank(unit(count, len(model.probe), seed=seed), listed, model, cut)


def test_the_file_of_a_bank(dense, tmp_path):
    bank = a_bank(ModelPrint.of(dense))
    write_bank(tmp_path / "bank.safetensors", bank)
    read = read_bank(tmp_path / "bank.safetensors", "bank")
    assert torch.equal(read.regions, bank.regions) and torch.equal(
        read.model.probe, bank.model.probe
    )
    assert (read.images, read.cut) == (bank.images, bank.cut)
    assert (read.model.weights, read.model.settings) == (bank.model.weights, bank.model.settings)


def test_broken_files(dense, tmp_path):
    file = tmp_path / "bank.safetensors"
    with pytest.raises(FileNotFoundError, match=r"bank: got .* does not exist. Build it with"):
        read_bank(file, "bank")
    write_bank(file, a_bank(ModelPrint.of(dense)))
    whole, tensors = file.read_bytes(), load_file(file)
    file.write_bytes(whole[:-100])
    with pytest.raises(ValueError, match=r"cannot be read .* cut short\?"):
        read_bank(file, "bank")
    save_file(tensors, file)
    with pytest.raises(ValueError, match="no memory bank"):
        read_bank(file, "bank")
    file.write_bytes(whole.replace(b'"format":"1"', b'"format":"7"'))
    with pytest.raises(ValueError, match="got format '7' of hyperclip .* expected '1'"):
        read_bank(file, "bank")
    spoiled = a_bank(ModelPrint.of(dense))
    spoiled.regions[1] = torch.nan
    write_bank(file, spoiled)
    with pytest.raises(ValueError, match="is damaged .* length 1"):
        read_bank(file, "bank")
    write_bank(file, replace(spoiled, regions=unit(7, spoiled.regions.shape[1])))
    with pytest.raises(ValueError, match="is damaged .* 7 regions"):
        read_bank(file, "bank")


def test_a_bank_is_of_one_model(dense, tmp_path):
    """Other weights, or other embeddings by the same ones, are refused before any image."""
    file = tmp_path / "bank.safetensors"
    write_bank(file, a_bank(ModelPrint.of(dense)))
    given = ["TEST.BANK.FILE", str(file), "TEST.BANK.NEIGHBOURS", "2"]
    staged = load_model(load_config(DENSE, [*CPU, *given]))
    (memory,) = staged.stages
    assert isinstance(memory, Memory) and len(memory.bank) == 3
    assert staged.describe().settings["stages"]["Memory"]["neighbours"] == 2
    with pytest.raises(ValueError, match="is of another model: got HyperCLIP .* expected CLIPer"):
        load_model(load_config("configs/quickstart/cliper_fusion.yaml", [*CPU, *given]))
    assert not any("BANK" in key for key in portable_settings(load_config(DENSE, [*CPU, *given])))
    other = ["MODEL.CLIP_PIXEL_STD", "[250.0, 20.0, 90.0]"]
    with pytest.raises(ValueError, match="same weights with other settings.*before CLIP"):
        load_model(load_config(DENSE, [*CPU, *given, *other]))
    changed = ModelPrint.of(dense)
    weight = next(dense.clip.parameters())
    with torch.no_grad():
        weight.view(-1)[0] += 1
        with pytest.raises(ValueError, match="another model: got HyperCLIP with weights"):
            ModelPrint.of(dense).require_same(changed, "the bank", "")
        weight.view(-1)[0] -= 1
    with pytest.raises(ValueError, match="TEST.BANK.FILE: got .* in a training"):
        check_training(load_config("configs/quickstart/hyperclip.yaml", [*CPU, *given]))


def test_growing_keeps_each_image_once(dense, tmp_path, monkeypatch):
    monkeypatch.setattr("hyperclip.stages.bank_file.EVERY", 2)
    model, cut = ModelPrint.of(dense), Cutter(None, "none", 2).describe()
    file, width = tmp_path / "bank.safetensors", len(model.probe)
    bank = GrowingBank(file, model, cut)
    for i in range(3):
        bank.add(f"{i}.png", f"{i}" * 64, unit(2, width, seed=i))
    again = GrowingBank(file, model, cut)  # as after a kill: the third was in memory alone
    assert len(again) == 2 and "0" * 64 in again and "2" * 64 not in again
    assert not file.exists()
    again.add("2.png", "2" * 64, unit(2, width, seed=2))
    whole = again.finish()
    assert [image.name for image in whole.images] == ["0.png", "1.png", "2.png"]
    expected = torch.cat([unit(2, width, seed=i) for i in range(3)])
    assert torch.equal(read_bank(file, "bank").regions, expected)
    assert [path.name for path in tmp_path.iterdir()] == ["bank.safetensors"]
    left = file.with_name(f"{file.name}.parts") / "left.safetensors"
    write_bank(left, whole)  # as after a kill between the file and the end of its parts
    assert len(GrowingBank(file, model, cut).finish().images) == 3 and not left.exists()
    with pytest.raises(ValueError, match="got regions by .*'cells': 2.* expected .*'cells': 3"):
        GrowingBank(file, model, Cutter(None, "none", 3).describe())
    with pytest.raises(ValueError, match="--output: .* is of another model"):
        GrowingBank(file, replace(model, weights="0" * 64), cut)


def test_a_system_without_names_is_told():
    system = GivenSystem(unit(3, 8), [0, 1, 2], torch.rand(3, 4, 5))
    system.text = None
    staged = Staged(system, [Memory(unit(9, 8), OPTIONS)])
    with pytest.raises(ValueError, match="GivenSystem has no embeddings of names"):
        staged.segment(staged.encode([unit(8, 4, 5, dim=0)])[0], Question.of(WORDS), SIZE)


def test_regions_that_go_by_file_names_are_refused(monkeypatch, tmp_path):
    """The shipped ones, and any other proposer that has to know the file."""
    (tmp_path / "a.png").write_bytes(b"")

    class ByName(RecordProposer):
        def of_records(self, records):
            raise AssertionError("asked for an image")

        def check_records(self, records):
            raise AssertionError("asked for files")

    monkeypatch.setattr(REGIONS_REGISTRY, "_obj_map", dict(REGIONS_REGISTRY._obj_map))
    REGIONS_REGISTRY._do_register("by_name", lambda cfg: ByName())
    folder = ["TEST.REGIONS.FOLDER", str(tmp_path)]
    for name, more in (("files", folder), ("by_name", [])):
        cfg = load_config(DENSE, [*CPU, "TEST.REGIONS.NAME", name, *more])
        with pytest.raises(ValueError, match=f"TEST.REGIONS.NAME: got '{name}' with a memory bank"):
            Cutter.from_config(cfg)
