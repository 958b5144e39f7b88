"""One place says how float32 numbers are multiplied: the same for every inference, named, and put
back afterwards.
"""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from hyperclip.config.keys import load_config
from hyperclip.evaluation.results_files import read_results
from hyperclip.evaluation.running import evaluate_dataset
from hyperclip.evaluation.suite import System, choose_datasets, load_benchmarks, run_suite
from hyperclip.predictor import Predictor
from hyperclip.runtime import precision
from hyperclip.runtime.precision import Precision, float32_products
from hyperclip.training.step import training_precision
from hyperclip.training.trainer import Trainer

from tests.helpers import fake_trees
from tests.helpers.defaults import precision_keys

DENSE, HYPERCLIP, CLIPER = (
    f"configs/quickstart/{name}.yaml" for name in ("dense_clip", "hyperclip", "cliper_fusion")
)
CPU = ["MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0"]


def switches():
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, precision._read()


@pytest.fixture(params=[("highest", True), ("high", False), ("medium", True)], ids=str)
def host(request):
    """A program that has set the switches for itself."""
    before = precision._read()
    torch.set_float32_matmul_precision(request.param[0])
    torch.backends.cudnn.allow_tf32 = request.param[1]
    yield switches()
    precision._write(before)


@pytest.mark.parametrize("tf32", [False, True])
def test_switches_are_set_and_put_back(host, tf32):
    for error in (None, RuntimeError):
        try:
            with float32_products(tf32):
                assert switches()[:2] == (("high", True) if tf32 else ("highest", False))
                with float32_products(not tf32):
                    assert switches()[:2] == (("highest", False) if tf32 else ("high", True))
                assert switches()[:2] == (("high", True) if tf32 else ("highest", False))
                if error:
                    raise error
        except RuntimeError:
            pass
        assert switches() == host


@pytest.mark.skipif(
    not hasattr(torch.backends, "fp32_precision"), reason="this torch has the old switches alone"
)
def test_a_host_with_the_new_switches(host):
    """What the program set by kind of operation counts, and is the same afterwards, though the old
    switches contradict it.
    """
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    kinds = precision._read()[2]
    with float32_products(False):
        assert set(precision._read()[2]) == {"ieee"}
    assert precision._read()[2] == kinds


def test_threads_share_the_switches_or_wait(host):
    """Two that want the same are inside together; one that wants others comes after them; the
    program's own are back then.
    """
    together, seen = threading.Barrier(2), []

    def work(tf32, meet):
        with float32_products(tf32):
            if meet:
                together.wait(timeout=30)
            seen.append((tf32, switches()[:2]))

    threads = [
        threading.Thread(target=work, args=a) for a in ((False, True), (False, True), (True, False))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (
        sorted(seen) == [(False, ("highest", False))] * 2 + [(True, ("high", True))]
        and switches() == host
    )


@pytest.fixture
def tree(tmp_path, monkeypatch):
    fake_trees.ade150(tmp_path)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


def test_every_inference_has_the_same_switches_and_its_results_name_them(host, tree):
    """The evaluation of a training and --eval-only (Trainer.test), tools/evaluate.py, and the
    predictor.
    """
    seen = []
    (benchmark,) = load_benchmarks(choose_datasets(["a150"]), partial=True)
    options = [*CPU, "DATASETS.TEST", "['a150']", "OUTPUT_DIR", str(tree / "out")]
    for config in (DENSE, CLIPER):
        cfg = load_config(config, options)
        model = build_model(cfg).eval()
        # while an image, and while words are encoded
        for place in (model.clip.visual.ln_pre, model.clip.ln_final):
            place.register_forward_hook(lambda *_: seen.append(switches()[:2]))
        Trainer.test(cfg, model)
        (row,) = read_results(tree / "out")
        assert (row["dataset"], row["precision"]) == (benchmark.spec.name, "float32")
        assert (
            evaluate_dataset(cfg, model, benchmark.spec.name, records=benchmark.records).precision
            == "float32"
        )
        predictor = Predictor(model, shortest=0)
        predictor.set_image(np.zeros((96, 96, 3), np.uint8))
        predictor.predict("dog; cat")
        assert predictor.precision == "float32"
        (row,) = run_suite([(System("x", cfg), [benchmark])], tree / config)
        assert (
            row["precision"] == "float32"
            and "| float32 " in (tree / config / "results.md").read_text()
        )
        assert switches() == host
    assert set(seen) == {("highest", False)} and len(seen) > 10


def test_training_puts_the_switches_back(host):
    seen = []
    cfg = load_config(HYPERCLIP, [*CPU, "SOLVER.TF32", "True"])
    trainer = SimpleNamespace(
        cfg=cfg, iter=0, _trainer=SimpleNamespace(run_step=lambda: seen.append(switches()[:2]))
    )
    for device, want in (("cpu", ("highest", False)), ("cuda", ("high", True))):
        trainer.on_cuda = device == "cuda"
        Trainer.run_step(_TrainerOf(trainer))
        assert seen.pop() == want and switches() == host


class _TrainerOf(Trainer):
    def __init__(self, parts):
        self.__dict__.update(vars(parts))


GPU = SimpleNamespace(device=torch.device("cuda"), half_precision=False)
HALF_GPU = SimpleNamespace(device=torch.device("cuda"), half_precision=True)
ON_CPU = SimpleNamespace(device=torch.device("cpu"), half_precision=True)


def name_of(wanted, model):
    return Precision.of(wanted, model).name


def test_names():
    models = (GPU, HALF_GPU, ON_CPU)
    assert [name_of("tf32", m) for m in models] == ["tf32", "float16", "float32"]
    assert [name_of("float32", m) for m in models] == ["float32", "float16", "float32"]
    assert [name_of("bfloat16", m) for m in models] == ["bfloat16"] * 3
    with torch.autocast("cpu", torch.bfloat16):
        assert name_of("float32", ON_CPU) == "bfloat16"
        assert not Precision.of("bfloat16", ON_CPU).mixed  # it is on already
    expected = r"expected one of \['auto', 'float32', 'tf32', 'bfloat16', 'float16'\]"
    with pytest.raises(ValueError, match=f"TEST.PRECISION: got 'half', {expected}"):
        Predictor(build_model(load_config(DENSE, CPU)), precision="half")
    with pytest.raises(ValueError, match="TEST.PRECISION: got 'float16' on 'cpu', expected 'bf"):
        Predictor.from_config(DENSE, [*CPU, "TEST.PRECISION", "float16"])


@pytest.mark.parametrize(
    ("amx", "avx512", "ampere", "cpu", "gpu"),
    [
        (True, False, True, "bfloat16", "bfloat16"),
        (False, True, True, "bfloat16", "bfloat16"),
        (False, False, False, "float32", "float16"),
    ],
)
def test_auto_takes_what_the_device_has_units_for(
    monkeypatch, caplog, amx, avx512, ampere, cpu, gpu
):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: ampere)
    caplog.set_level("INFO", "hyperclip.runtime.precision")
    precision._say_once.cache_clear()  # what another test was told
    assert (name_of("auto", ON_CPU), name_of("auto", GPU)) == (cpu, gpu)
    assert f"TEST.PRECISION auto: {cpu} on this cpu" in caplog.text
    assert f"TEST.PRECISION auto: {gpu} on this cuda" in caplog.text
    assert name_of("auto", ON_CPU) == cpu and caplog.text.count("on this cpu") == 1
    caplog.clear()
    name_of("bfloat16", ON_CPU)
    assert ("no units for it" in caplog.text) == (cpu == "float32")


def test_a_torch_that_cannot_say_has_none(monkeypatch):
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.delattr(torch.cpu, name)
    assert name_of("auto", ON_CPU) == "float32"


def test_auto_never_takes_emulated_bfloat16(monkeypatch):
    for emulated, real, want in (
        (True, False, "float32"),
        (True, True, "bfloat16"),
        (False, False, "float32"),
    ):
        monkeypatch.setattr(
            torch.cuda,
            "is_bf16_supported",
            lambda including_emulation=True, e=emulated, r=real: r or (e and including_emulation),
        )
        assert training_precision(precision_keys("auto", "cuda")) == want
        assert training_precision(precision_keys("bfloat16", "cuda")) == "bfloat16"
