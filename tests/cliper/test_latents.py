"""Cached latents belong to the weights that made them; damage is mended, and several writers do not
meet.
"""

from __future__ import annotations

import shutil
import threading

import pytest
import torch
from cliper.diffusion import DiffusionAttention, DiffusionOptions
from cliper.latents import LatentsCache, digest
from cliper.pretrained import load_diffusion
from safetensors.torch import load_file, save_file

from tests.helpers.defaults import default

TINY = "configs/quickstart/tiny_diffusion"
LAYERS = ("up_blocks.1.attentions.1", "up_blocks.1.attentions.0")
KEY = "ab12"
SHAPE = (1, 4, 6, 6)


def load(path, cache):
    parts = load_diffusion(str(path))
    options = default(DiffusionOptions, LAYERS)
    return DiffusionAttention(parts._replace(source="same"), options, cache)


def refuse():
    raise AssertionError("computed again")


def test_other_weights_in_the_same_folder(tmp_path):
    folder, cache, square = (
        tmp_path / "model",
        tmp_path / "cache",
        torch.linspace(-1, 1, 3 * 96 * 96).view(3, 96, 96),
    )
    shutil.copytree(TINY, folder)
    first = load(folder, cache).latents(square)
    file = folder / "vae/diffusion_pytorch_model.safetensors"
    state = load_file(file)
    save_file({k: v + 0.01 if k == "encoder.conv_in.bias" else v for k, v in state.items()}, file)
    changed = load(folder, cache)
    second = changed.latents(square)
    assert torch.equal(second, changed._encode(square)) and (second - first).abs().max() > 1e-4
    save_file({k: v + 1 if k.startswith("decoder.") else v for k, v in state.items()}, file)
    shutil.move(folder, tmp_path / "elsewhere")
    same = load(
        tmp_path / "elsewhere", cache
    )  # the same encoder at another path: nothing is computed
    same._encode = lambda _: refuse()
    assert torch.equal(same.latents(square), first) and len(list(cache.iterdir())) == 2


def test_weights_changed_in_the_same_model(tmp_path):
    model, square = load(TINY, tmp_path), torch.zeros(3, 96, 96)
    first = model.latents(square)
    seen = [first]
    with torch.no_grad():
        model.vae.encoder.conv_in.bias.add_(0.5)
    for change in (
        lambda: None,
        lambda: model.vae.encoder.conv_in.bias.data.add_(0.5),  # no version counter moves
        lambda: model.vae.encoder.conv_out.weight.detach().flatten()[::7].mul_(1.5),
        lambda: model.vae.quant_conv.weight.data.copy_(model.vae.quant_conv.weight.flip(0)),
    ):
        change()
        seen.append(model.latents(square))
        assert torch.equal(seen[-1], model._encode(square))
        assert not any(torch.equal(seen[-1], other) for other in seen[:-1])
    model.vae.register_to_config(scaling_factor=2.0)
    assert torch.equal(model.latents(square), model._encode(square))


@pytest.mark.parametrize("damage", ["cut", "empty", "bit", "other shape", "other content", "nan"])
def test_damaged_files_are_written_anew(tmp_path, damage, caplog):
    cache, like = LatentsCache(tmp_path / "cache"), torch.zeros(1)
    want = torch.linspace(0, 1, 144).view(SHAPE)
    cache.get(KEY, SHAPE, like, lambda: want)
    (file,) = (tmp_path / "cache").iterdir()
    content = file.read_bytes()
    if damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "bit":
        at = content.index(want.numpy().tobytes()) + 100
        file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    elif damage == "other shape":
        torch.save({"latents": want[..., :3], "digest": digest({"latents": want[..., :3]})}, file)
    elif damage == "nan":
        torch.save({"latents": want * float("nan"), "digest": digest({"latents": want})}, file)
    else:
        torch.save(want, file)  # what an earlier version wrote
    assert torch.equal(cache.get(KEY, SHAPE, like, lambda: want), want)
    assert torch.equal(cache.get(KEY, SHAPE, like, refuse), want)
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [f"{KEY}.pt"]


def test_several_writers(tmp_path):
    want, wrong = torch.linspace(0, 1, 144).view(SHAPE), []

    def work():
        for key in ("aa", "bb", "cc") * 10:
            got = LatentsCache(tmp_path / "cache").get(key, SHAPE, want, lambda: want.clone())
            if not torch.equal(got, want):
                wrong.append(key)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and sorted(p.name for p in (tmp_path / "cache").iterdir()) == [
        "aa.pt",
        "bb.pt",
        "cc.pt",
    ]


def test_a_folder_that_cannot_be_used(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "cache"):
        with pytest.raises(
            NotADirectoryError, match=r"DIFFUSION.CACHE: got .*file.* is a file. Give a folder"
        ):
            LatentsCache(path)

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr("cliper.latents.write_atomically", full)
    want = torch.ones(SHAPE)
    assert torch.equal(LatentsCache(tmp_path / "new").get(KEY, SHAPE, want, lambda: want), want)


def test_digest_tells_names_types_shapes_and_values_apart():
    x = torch.arange(6.0)
    digests = {
        digest({"a": x}),
        digest({"b": x}),
        digest({"a": x.int()}),
        digest({"a": x.view(2, 3)}),
        digest({"a": x + 1}),
        digest({"a": x}, "cuda"),
        digest({"a": x.bfloat16()}),
    }
    assert len(digests) == 7 and digest({"a": x, "b": x}) == digest({"b": x, "a": x.clone()})
