"""A hub on loopback: downloads that are whole or not there, and uploads."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hyperclip import Predictor, hub, zoo
from hyperclip.hub import HubFile

from tests.helpers.fake_hub import serve
from tests.pretrained.models import CPU

FETCH = "from hyperclip import hub; print(hub.fetch_folder('user/tiny', 'config.yaml'))"
ONE = "from hyperclip.hub import HubFile; import logging; logging.basicConfig(level='INFO'); "
ONE += "print(HubFile('user/tiny', 'model.safetensors').fetch())"
ANSWER = """
import hashlib
from hyperclip import Predictor
from tests.pretrained import IMAGE, WORDS
predictor = Predictor.from_pretrained({name!r}, ["MODEL.DEVICE", "cpu"], {options})
{then}
predictor.set_image(IMAGE)
prediction = predictor.predict(WORDS)
print(hashlib.sha256(prediction.confidence.tobytes() + prediction.labels.tobytes()).hexdigest())
"""
WEIGHTS = bytes(range(256)) * 2000


@pytest.fixture
def online():
    with serve() as fake:
        yield fake


@pytest.fixture
def tiny(online, tmp_path):
    """A repository of a few files on the hub."""
    source = tmp_path / "source"
    (source / "files").mkdir(parents=True)
    (source / "config.yaml").write_text("MODEL: {WEIGHTS: model.safetensors}\n")
    (source / "model.safetensors").write_bytes(WEIGHTS)
    (source / "files" / "größe.json").write_text("{}")
    (source / "train.py").write_text("raise SystemExit('code of a stranger')")
    (source / "pytorch_model.bin").write_bytes(b"a pickle")
    online.add("user/tiny", source)
    return online


def line(done: subprocess.CompletedProcess[str]) -> str:
    """The message of the error that a process ended with."""
    assert done.returncode == 1, done
    return done.stderr.strip().splitlines()[-1]


def left_over(cache) -> list[str]:
    """Files of the cache that are not whole."""
    return [str(path) for path in cache.rglob("*") if "incomplete" in path.name]


def test_download_then_a_start_without_network(tiny, tmp_path):
    cache = tmp_path / "cache"
    first = tiny.run(FETCH, cache)
    assert first.returncode == 0, first.stderr
    folder = tmp_path / "source"
    fetched = Path(first.stdout.strip())
    names = {p.relative_to(fetched).as_posix() for p in fetched.rglob("*") if p.is_file()}
    assert names == {"config.yaml", "model.safetensors", "files/größe.json"}
    assert (fetched / "model.safetensors").read_bytes() == WEIGHTS
    tiny.asked.clear()
    assert tiny.run(FETCH, cache).stdout == first.stdout
    assert not [asked for asked in tiny.asked if asked.startswith("GET /user")]
    for others in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        assert tiny.run(FETCH, cache, **others).stdout == first.stdout
    assert folder.is_dir()


@pytest.mark.parametrize("resumable", [True, False])
def test_a_download_that_is_cut_goes_on(tiny, tmp_path, resumable):
    tiny.cuts, tiny.resumable = {"model.safetensors": 2}, resumable
    done = tiny.run(FETCH, tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip(), "model.safetensors").read_bytes() == WEIGHTS
    gets = [x for x in tiny.asked if x.startswith("GET") and x.endswith("model.safetensors")]
    assert len(gets) == 3 and tiny.cuts == {"model.safetensors": 0}


def test_a_download_that_never_ends_leaves_no_half_file(tiny, tmp_path):
    cache, whole = tmp_path / "cache", tiny.files["model", "user/tiny", "model.safetensors"]
    tiny.files["model", "user/tiny", "model.safetensors"] = whole[:1000]
    tiny.announced = {"model.safetensors": whole}
    done = tiny.run(FETCH, cache)
    assert "the hub announced" in line(done) and not left_over(cache)
    tiny.files["model", "user/tiny", "model.safetensors"] = whole
    assert tiny.run(FETCH, cache).returncode == 0


def test_a_wrong_hash_is_refused_and_not_kept(tiny, tmp_path):
    cache = tmp_path / "cache"
    tiny.announced = {"model.safetensors": b"what its owner uploaded"}
    for _ in range(2):
        error = line(tiny.run(FETCH, cache))
        told = hashlib.sha256(b"what its owner uploaded").hexdigest()
        assert error.startswith("ValueError: model.safetensors: its hash is")
        assert f"the hub announced {told}" in error
        assert not [p for p in cache.rglob("*") if p.is_file() and p.stat().st_size == len(WEIGHTS)]
    tiny.announced = {"config.yaml": b"another"}
    assert "config.yaml: its hash is" in line(tiny.run(FETCH, tmp_path / "cache2"))


def test_a_damaged_cache_is_noticed(tiny, tmp_path):
    cache = tmp_path / "cache"
    folder = Path(tiny.run(FETCH, cache).stdout.strip())
    (folder / "model.safetensors").resolve().write_bytes(WEIGHTS[:-1] + b"x")
    assert "the hub announced" in line(tiny.run(FETCH, cache))
    assert tiny.run(FETCH, cache).returncode == 0
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_names_that_the_hub_does_not_have(tiny, tmp_path):
    cache = tmp_path / "cache"
    error = line(tiny.run(FETCH.replace("tiny", "tinny"), cache))
    assert error.startswith("FileNotFoundError: ") and "/user/tinny: no such repository" in error
    del tiny.files["model", "user/tiny", "config.yaml"]
    error = line(tiny.run(FETCH, cache))
    assert error.startswith("FileNotFoundError: ") and "config.yaml" in error
    assert not [x for x in tiny.asked if x.endswith("model.safetensors")]


def test_without_network_and_cache(tmp_path):
    with serve() as gone:
        pass
    error = line(gone.run(FETCH, tmp_path / "cache", HF_HUB_OFFLINE="1"))
    assert error.startswith(f"FileNotFoundError: {gone.address}/user/tiny: not in the cache")
    assert str(tmp_path / "cache") in error and "copy the model's folder to this machine" in error


def test_a_single_file_and_its_pin(tiny, tmp_path):
    cache, digest = tmp_path / "cache", hashlib.sha256(WEIGHTS).hexdigest()
    done = tiny.run(ONE, cache)
    assert f"model.safetensors has the SHA-256 {digest}; sha256=… pins it" in done.stderr
    assert f"Downloading {tiny.address}/user/tiny/resolve/main/model.safetensors" in done.stderr
    again = tiny.run(ONE, cache, HF_HUB_OFFLINE="1")
    assert again.stdout == done.stdout and "Downloading" not in again.stderr
    pinned = ONE.replace("fetch()", f"fetch('{digest.upper()}')")
    assert tiny.run(pinned, cache, HF_HUB_OFFLINE="1").stdout == done.stdout
    wrong = ONE.replace("fetch()", f"fetch('{'0' * 64}')")
    error = line(tiny.run(wrong, cache, HF_HUB_OFFLINE="1"))
    assert f"its SHA-256 is {digest}, expected {'0' * 64}" in error
    known = ONE.replace("safetensors')", f"safetensors', sha256='{'0' * 64}')")
    assert f"expected {'0' * 64}" in line(tiny.run(known, cache, HF_HUB_OFFLINE="1"))
    with pytest.raises(ValueError, match="sha256: got 'abc', expected 64 hexadecimal digits"):
        hub.require_sha256(tmp_path / "source" / "config.yaml", "abc")


def test_two_processes_at_once(tiny, tmp_path):
    tiny.cuts = {"model.safetensors": 1}
    command, options = [sys.executable, "-c", FETCH], {"stdout": subprocess.PIPE, "text": True}
    environment = tiny.environment(tmp_path / "cache")
    both = [subprocess.Popen(command, env=environment, **options) for _ in range(2)]
    folders = {process.communicate(timeout=120)[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0] and len(folders) == 1
    assert Path(folders.pop(), "model.safetensors").read_bytes() == WEIGHTS
    assert not left_over(tmp_path / "cache")


def test_a_model_goes_up_and_comes_down(online, tmp_path):
    """By ``push_to_hub`` of one process, and ``from_pretrained`` of others, the last offline."""
    cache, name = tmp_path / "cache", "some-user/quick.model_1"
    options = "only='trained', message='First «try»', measured='Good.'"
    push = f"print(predictor.push_to_hub('{name}', {options}))"
    code = ANSWER.format(name="quickstart/hyperclip", options="", then=push)
    done = online.run(code, cache, HF_TOKEN="hf_right")
    assert done.returncode == 0, done.stderr
    commit = online.commit("model", name)
    address, local = done.stdout.split()
    assert address == f"{online.address}/{name}/commit/{commit}" and len(local) == 64
    assert online.messages == ["First «try»"]
    names = {"config.yaml", "model.safetensors", "README.md"}
    assert {n for n in online.of("model", name) if not n.startswith(".")} == names
    card = online.of("model", name)["README.md"].decode()
    assert f"from_pretrained('{name}')" in card and "Good." in card
    digest = hashlib.sha256(online.of("model", name)["model.safetensors"]).hexdigest()
    options = f"revision='main', sha256='{digest}'"
    first = online.run(ANSWER.format(name=name, options=options, then=""), cache)
    assert first.stdout.strip() == local, first.stderr
    pinned = ANSWER.format(name=name, options=f"revision='{commit}'", then="")
    assert online.run(pinned, cache, HF_HUB_OFFLINE="1").stdout.strip() == local


def test_an_upload_replaces_the_files_of_the_one_before(tiny, tmp_path):
    tiny.files["model", "user/tiny", "files/old.json"] = b"{}"
    code = "from pathlib import Path; from hyperclip import hub; "
    code += f"hub.upload_folder(Path({str(tmp_path / 'source')!r}), 'user/tiny', message='x')"
    done = tiny.run(code, tmp_path / "cache", HF_TOKEN="hf_right")
    assert done.returncode == 0, done.stderr
    names = {name for name in tiny.of("model", "user/tiny") if name.startswith("files/")}
    assert names == {"files/größe.json"}


def test_uploads_that_are_refused(tmp_path, tiny):
    code = "from pathlib import Path; from hyperclip import hub; "
    code += f"hub.upload_folder(Path({str(tmp_path / 'source')!r}), 'user/mine', message='x')"
    error = line(tiny.run(code, tmp_path / "cache", HF_TOKEN="hf_wrong"))
    assert "/user/mine: the transfer failed" in error and "log in with 'hf auth login'" in error
    assert not tiny.of("model", "user/mine")
    predictor = Predictor.from_pretrained("quickstart/hyperclip", CPU)
    with pytest.raises(ValueError, match="push_to_hub: got 'mine', expected OWNER/NAME"):
        predictor.push_to_hub("mine")


def test_published_checkpoint_of_catseg(online, tmp_path, golden):
    """In its own key names, from a space of the hub, as a pickle of tensors alone."""
    keys = golden("reference_keys.json")["models"]["catseg_vitb16"]["keys"]
    values = torch.linspace(0.001, 0.02, len(keys))
    # one number a tensor: the file is small
    state = {n: values[i].clone().expand(keys[n][0]) for i, n in enumerate(keys)}
    folder = tmp_path / "weights"
    folder.mkdir()
    torch.save({"model": state}, folder / "model_base.pth")
    online.add("hamacojr/CAT-Seg-weights", folder, "space")
    code = """
from hyperclip import Predictor
p = Predictor.from_pretrained("catseg-vitb", ["MODEL.DEVICE", "cpu"])
print(p.model.state_dict()["clip.ln_final.weight"].unique().item(), p.model.describe().method)
"""
    done = online.run(code, tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    place = list(keys).index("sem_seg_head.predictor.clip_model.ln_final.weight")
    value, method = done.stdout.split()
    assert float(value) == values[place].item() and method == "CAT-Seg"
    assert zoo.ZOO["catseg-vitb"].missing().endswith("which its first use downloads")


def test_a_checkpoint_that_holds_code_is_not_opened(online, tmp_path):

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    folder = tmp_path / "weights"
    folder.mkdir()
    torch.save({"model": Evil()}, folder / "model_base.pth")
    online.add("hamacojr/CAT-Seg-weights", folder, "space")
    code = "from hyperclip import Predictor; Predictor.from_pretrained('catseg-vitb')"
    assert "which are not opened since they could run code" in line(
        online.run(code, tmp_path / "c")
    )
    assert not (tmp_path / "written").exists()


def test_addresses():
    file = HubFile("hamacojr/CAT-Seg-weights", "model_base.pth", "space")
    assert file == zoo.ZOO["catseg-vitb"].weights
    assert file.address.endswith("/spaces/hamacojr/CAT-Seg-weights/resolve/main/model_base.pth")
    assert HubFile("a/b", "c.pth").address.endswith("/a/b/resolve/main/c.pth")
    named = ("a/b", "user-1/Some.model_2", "a", "a/b/c", "./a", "/a/b", "a b/c", "", "a/ü b")
    assert [n for n in named if hub.is_repository(n)] == ["a/b", "user-1/Some.model_2"]
