"""The values of a config as plain data."""

from typing import Any

import yaml
from detectron2.config import CfgNode

from .config_files import flat_config
from .keys import default_config


def plain_settings(cfg: CfgNode) -> dict[str, Any]:
    """All values of a config by key, as its YAML has them: lists for tuples."""
    return dict(flat_config(yaml.safe_load(cfg.dump())))


def changed_settings(cfg: CfgNode) -> dict[str, Any]:
    """Those values of a config that are not the defaults, by key."""
    defaults = plain_settings(default_config())
    values = plain_settings(cfg)
    return {key: value for key, value in values.items() if value != defaults.get(key)}
