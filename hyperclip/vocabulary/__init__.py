"""Vocabularies and prompt templates: no torch, no network."""

from .templates import TEMPLATES, prompt_templates
from .vocabulary import Vocabulary, asked_names, builtin, load_vocabulary, synonym_rule
