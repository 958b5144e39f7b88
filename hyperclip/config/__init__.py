"""The configuration: every key, what values are allowed, and how files are read."""

from .keys import add_hyperclip_config, extend_config, load_config

__all__ = ["add_hyperclip_config", "extend_config", "load_config"]
