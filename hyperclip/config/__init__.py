"""The configuration: every key, what values are allowed, and how files are read."""

from .files import flat_config
from .keys import add_hyperclip_config, extend_config, load_config, output_keys, plain_settings
from .rules import KeyRules

__all__ = [
    "KeyRules",
    "add_hyperclip_config",
    "extend_config",
    "flat_config",
    "load_config",
    "output_keys",
    "plain_settings",
]
