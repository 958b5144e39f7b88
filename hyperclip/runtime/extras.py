"""What installs the packages that only some parts need."""


def how_to_install(extra: str) -> str:
    """The command for an extra of ``setup.py``: by the folder, since on PyPI the package's name is
    that of another one.
    """
    return f'pip install ".[{extra}]" in the repository'
