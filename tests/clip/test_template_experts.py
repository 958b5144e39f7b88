"""Templates chosen by the entropy of their predictions on unlabelled images."""

from __future__ import annotations

import pytest
import torch
from hyperclip.clip.template_experts import TemplateEntropy, embed_each, with_experts
from hyperclip.commands import choose_templates as program
from hyperclip.config import load_config
from hyperclip.load import load_model
from hyperclip.tinyscenes.drawing import render_scene
from hyperclip.vocabulary import Vocabulary
from hyperclip.vocabulary.prompts import Prompts
from PIL import Image
from torch.nn import functional as F

from reference import vocabulary as reference

CONFIG = "configs/quickstart/dense_clip.yaml"
CPU = ["MODEL.DEVICE", "cpu"]
WORDS = "red plain circle, circle; blue striped star; green dotted cross"


def test_against_the_reference():
    generator = torch.Generator().manual_seed(0)
    text = F.normalize(torch.randn(6, 5, 4, generator=generator), dim=2)
    images = [F.normalize(torch.randn(4, 2, k, generator=generator), dim=0) for k in (1, 3, 2)]
    entropy = TemplateEntropy(text, 5.0)
    for image in images:
        entropy.add(image)
    expected = torch.tensor(reference.template_entropies(text, images, 5.0), dtype=torch.float64)
    torch.testing.assert_close(entropy.means, expected, atol=1e-5, rtol=1e-5)
    assert torch.isinf(expected).any()
    for k, own in enumerate(entropy.experts(3)):
        finite = [p for p in expected[:, k].argsort(stable=True).tolist() if expected[p, k] < 1e9]
        assert own == finite[:3]


def test_experts_in_a_vocabulary():
    words = Vocabulary((("a",), ("b",), ("c",)), prompts=(Prompts(("d",)), Prompts(), Prompts()))
    found = with_experts(words, ("x {}", "y {}", "z {}"), [[2, 0], [], [1]])
    assert found.prompts == (Prompts(("d",), ("z {}", "x {}")), Prompts(), Prompts((), ("y {}",)))


def test_the_program(tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    for k in range(2):
        Image.fromarray(render_scene("val_seen", k)[0]).save(folder / f"{k}.png")
    target = tmp_path / "out" / "words.json"
    given = ["--config-file", CONFIG, "--input", str(folder), "--output", str(target)]
    chosen = ["--templates", "scene", "--top", "2", "--vocabulary", WORDS, "--opts", *CPU]
    assert program.main([*given, *chosen]) == 0
    assert "2 images: " in capsys.readouterr().out
    words = Vocabulary.from_file(target)
    assert words.classes == Vocabulary.from_text(WORDS).classes and words.typed
    own = [prompts.templates for prompts in words.prompts if prompts.templates]
    assert own and all(1 <= len(templates) <= 2 for templates in own)
    system = load_model(load_config(CONFIG, CPU))
    with torch.no_grad():
        found = system.text(system.clip, words)
    for k, prompts in enumerate(words.prompts):
        if prompts.templates:
            each = embed_each(system.clip, system.text.tokenizer, prompts.templates, words)
            assert found[k] @ each[:, k].mean(dim=0) / each[:, k].mean(dim=0).norm() > 0.98


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (["--top", "0"], "--top: got 0, expected 1 to 80"),
        (["--top", "81"], "--top: got 81, expected 1 to 80"),
        (["--output", "a.txt"], "--output: got 'a.txt', expected a name that ends in .json"),
        (["--vocabulary", "dog;"], "got the class 'dog' alone"),
    ],
)
def test_mistakes(tmp_path, change, problem):
    given = ["--input", str(tmp_path), "--vocabulary", WORDS, "--output", str(tmp_path / "a.json")]
    with pytest.raises(ValueError, match=problem):
        program.main([*given, *change])
