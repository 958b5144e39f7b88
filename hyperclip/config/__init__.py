"""The configuration: every key, what values are allowed, and how files are read."""

from .config_files import flat_config
from .key_rules import KeyRules
from .keys import add_hyperclip_config, extend_config, input_keys, load_config, output_keys
from .settings import changed_settings, plain_settings
