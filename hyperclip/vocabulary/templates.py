"""Prompt templates: how a class name becomes sentences for the text tower."""

SINGLE = ("A photo of a {} in the scene",)
SCENE = (
    "a clean origami {}.",
    "a photo of a {}.",
    "This is a photo of a {}",
    "There is a {} in the scene",
    "There is the {} in the scene",
    "a photo of a {} in the scene",
    *(f"a photo of a {size} {{}}." for size in ("small", "medium", "large")),
    *(f"This is a photo of a {size} {{}}." for size in ("small", "medium", "large")),
    *(f"There is a {size} {{}} in the scene." for size in ("small", "medium", "large")),
)


TEMPLATES = ("single", "scene", "imagenet_select", "imagenet", "name")
"""Values of MODEL.PROMPT_ENSEMBLE_TYPE: 1, 15 (ViLD's 14 and CLIP-ES's), 8 and 80 (OpenAI's), and
the name alone.
"""


def prompt_templates(kind: str) -> tuple[str, ...]:
    """Templates of a kind, sentences with ``{}`` for the name; ValueError if it is unknown."""
    if kind not in TEMPLATES:
        expected = f"expected one of {list(TEMPLATES)}"
        raise ValueError(f"MODEL.PROMPT_ENSEMBLE_TYPE: got {kind!r}, {expected}")
    if kind in (plain := {"single": SINGLE, "scene": SCENE, "name": ("{}",)}):
        return plain[kind]
    import open_clip  # here, since it brings torch with it

    if kind == "imagenet":
        return tuple(template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES)
    return (*(template("{}") for template in open_clip.SIMPLE_IMAGENET_TEMPLATES), *SINGLE)
