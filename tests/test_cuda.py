"""A GPU gives what the CPU gives: both systems on the quickstart's tiny weights. Skipped where
there is none.
"""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model
from hyperclip.config.keys import load_config
from hyperclip.data.class_lists import train_vocabulary
from hyperclip.head.logits import ViewLogits
from hyperclip.inference import best_classes, score_maps
from hyperclip.vocabulary import Vocabulary

from tests.helpers.asking import ask_all

DEVICE = "cuda"
QUICK = "configs/quickstart"
WORDS = Vocabulary.from_text(
    "red plain circle; blue striped star, star; green dotted cross", "background; wall"
)
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(autouse=True)
def full_precision():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


def build(name, device, *overrides):
    torch.manual_seed(0)
    return build_model(
        load_config(f"{QUICK}/{name}.yaml", ["MODEL.DEVICE", device, *overrides])
    ).eval()


def picture(size=(96, 96)):
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator),
        "sem_seg": torch.randint(0, 10, size, generator=generator),
    }


def scores(model, *sizes):
    with torch.no_grad():
        answers = ask_all(model, [picture(size) for size in sizes], WORDS, scores=True)
    return [answer["sem_seg"].float().cpu() for answer in answers]


@pytest.mark.parametrize("windows", ["True", "False"])
@pytest.mark.parametrize("compiled", ["", "inductor"])
def test_hyperclip_scores(windows, compiled):
    keys = ["TEST.SLIDING_WINDOW", windows]
    want = scores(build("hyperclip", "cpu", *keys), (96, 96), (70, 110))
    model = build("hyperclip", DEVICE, *keys, "MODEL.COMPILE_HEAD", compiled)
    for got, expected in zip(scores(model, (96, 96), (70, 110)), want, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)
    with torch.autocast(DEVICE, torch.bfloat16):
        for got, expected in zip(scores(model, (96, 96), (70, 110)), want, strict=True):
            assert (got - expected).abs().mean() < 0.01


@pytest.mark.parametrize("mixed", [False, True])
def test_a_training_step(mixed):
    steps = []
    for device in ("cpu", DEVICE):
        model = build("hyperclip", device, "MODEL.SEM_SEG_HEAD.SAMPLED_CLASSES", "0").train()
        model.train_vocabulary = train_vocabulary(load_config(f"{QUICK}/hyperclip.yaml"))
        with torch.autocast(device, torch.bfloat16, enabled=mixed and device == DEVICE):
            (loss,) = model([picture()]).values()
        loss.backward()
        steps.append(
            (
                loss.item(),
                {n: p.grad.cpu() for n, p in model.named_parameters() if p.grad is not None},
            )
        )
    (want, gradients), (got, others) = steps
    assert got == pytest.approx(want, rel=1e-2 if mixed else 1e-4)
    assert others.keys() == gradients.keys()
    for name, gradient in gradients.items() if not mixed else ():
        assert (others[name] - gradient).norm() <= 1e-3 * max(gradient.norm().item(), 1e-4), name
    whole, other = (
        torch.cat([one[name].flatten() for name in gradients]) for one in (gradients, others)
    )
    assert (other - whole).norm() <= (0.1 if mixed else 1e-3) * whole.norm()


def test_labels_are_the_best_scores():
    """Ties go to the lower class."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(-3, 3, (1, 23, 24, 24), generator=generator).float()
    views = ViewLogits(logits.to(DEVICE), 23)
    labels, confidence = best_classes(views, None, (48, 60))
    scores = score_maps(views, None, (48, 60)).cpu()
    assert torch.equal(confidence.cpu(), scores.amax(0))
    assert torch.equal(labels.cpu(), torch.tensor(scores.numpy().argmax(0)))  # first of equals


@pytest.mark.parametrize("window", ["0", "48"])
def test_cliper_scores(window):
    keys = [
        "MODEL.CLIPER.HALF",
        "False",
        "MODEL.CLIPER.WINDOW",
        window,
        "MODEL.CLIPER.WINDOW_STRIDE",
        "24",
    ]
    sizes = [(96, 96), (80, 120)]
    want, model = scores(build("cliper", "cpu", *keys), *sizes), build("cliper", DEVICE, *keys)
    first = scores(model, *sizes)
    for got, expected in zip(first, want, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-3, rtol=0)
    with torch.autocast(DEVICE, torch.bfloat16):
        for got, expected in zip(scores(model, *sizes), want, strict=True):
            assert (got - expected).abs().mean() < 0.03


def test_cliper_in_float16():
    want, got = (
        scores(build("cliper", DEVICE, "MODEL.CLIPER.HALF", half), (96, 96))[0]
        for half in ("False", "True")
    )
    assert (got - want).abs().mean() < 0.02
