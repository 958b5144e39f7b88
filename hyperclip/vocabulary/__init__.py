"""Vocabularies, prompt templates and the text cache."""

from .prompts import PROMPT_TEMPLATES, prompt_templates
from .text_cache import TextEmbedder, asked_names, synonym_rule
from .vocabulary import Vocabulary, builtin, load_vocabulary

__all__ = [
    "PROMPT_TEMPLATES",
    "TextEmbedder",
    "Vocabulary",
    "asked_names",
    "builtin",
    "load_vocabulary",
    "prompt_templates",
    "synonym_rule",
]
