"""Asking a system as Detectron2 does: records of images, each with its question."""

from __future__ import annotations

from hyperclip.segmenter import Question


def ask_all(model, records, vocabulary, **options):
    """The answers for several images; ``options`` are those of :class:`Question`."""
    question = Question(vocabulary, **options)
    return model([{**record, "question": question} for record in records])


def ask(model, image, vocabulary, **options):
    """The answer for one image, a tensor (3, H, W) or a record that holds one."""
    record = image if isinstance(image, dict) else {"image": image}
    (answer,) = ask_all(model, [record], vocabulary, **options)
    return answer


def scores_of(model, image, vocabulary):
    """The score maps (T, H, W) of one image."""
    return ask(model, image, vocabulary, scores=True)["sem_seg"]
