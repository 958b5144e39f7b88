"""The configuration: every key, what values are allowed, and how files are read."""

from .config_files import flat_config
from .key_rules import KeyRules
from .keys import add_hyperclip_config, extend_config, load_config, output_keys, plain_settings
