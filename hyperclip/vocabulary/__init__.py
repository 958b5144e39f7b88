"""Vocabularies and prompt templates: no torch, no network."""

from .templates import TEMPLATES, prompt_templates
from .vocabulary import Vocabulary, builtin, load_vocabulary

__all__ = ["TEMPLATES", "Vocabulary", "builtin", "load_vocabulary", "prompt_templates"]
