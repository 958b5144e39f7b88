"""Import this before Detectron2: then it is there, or an error says how to install it."""

try:
    import detectron2.config  # noqa: F401
except Exception as error:
    raise ImportError(
        f"Detectron2 cannot be imported ({type(error).__name__}: {error}). Install it with "
        "`bash tools/setup.sh`, or from its own repository after torch: pip install "
        "--no-build-isolation git+https://github.com/facebookresearch/detectron2"
    ) from error
