"""Install Detectron2 from PyPI's hash-pinned wheel, unless one is there that can be imported.

PyPI has no wheel under Detectron2's own name. ``sal-detectron2`` 0.7.2 is upstream's main branch of
April 2024 (313 of its 316 files are identical) built for CPython 3.10; its Python files run
everywhere. This script rewrites it as a pure-Python wheel, always the same: without the compiled
library, the stray top-level ``tools`` package and the outdated ``numpy<2`` bound.

To use your own build instead, activate an environment in which it imports. Upstream builds, after
torch, with ``pip install --no-build-isolation git+https://github.com/facebookresearch/detectron2``.
"""

import base64
import hashlib
import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

NAME, VERSION = "sal-detectron2", "0.7.2"
SHA256 = "491af0c7f79bdb2d178e46f6cb16a97c4ac968d45c41ea3f6b6435d59bbee561"
DIST_INFO = f"sal_detectron2-{VERSION}.dist-info"
REPACKED = f"sal_detectron2-{VERSION}-py3-none-any.whl"
EPOCH = (2024, 4, 17, 0, 0, 0)


def pip(command: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", command, "-q", *arguments], check=True)


def download(folder: Path) -> Path:
    """Download the published wheel into ``folder`` and return its path; pip checks the hash."""
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{NAME}=={VERSION} --hash=sha256:{SHA256}\n")
    target = ["--python-version", "3.10", "--implementation", "cp", "--abi", "none"]
    safely = ["--no-deps", "--require-hashes", "--only-binary=:all:"]
    pip("download", *safely, *target, "-d", str(folder), "-r", str(requirement))
    (wheel,) = folder.glob("sal_detectron2-*.whl")
    return wheel


def rewrite_metadata(name: str, data: bytes) -> bytes:
    """The pure-Python form of one metadata file of the archive."""
    if name.endswith("/top_level.txt"):
        return b"detectron2\n"
    dropped = ("Tag:", "Root-Is-Purelib:", "Requires-Dist: black")
    kept = [line for line in data.decode().splitlines() if not line.startswith(dropped)]
    if name.endswith("/WHEEL"):
        kept = [*filter(None, kept), "Root-Is-Purelib: true", "Tag: py3-none-any"]
    elif name.endswith("/METADATA"):
        kept = [line.replace("numpy<2", "numpy") for line in kept]
    else:
        return data
    return "\n".join([*kept, ""]).encode()


def repack(wheel: Path, folder: Path) -> Path:
    """Write the pure-Python wheel of ``wheel`` into ``folder``."""
    target, record = folder / REPACKED, []
    with (
        zipfile.ZipFile(wheel) as source,
        zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as out,
    ):
        for name in sorted(source.namelist()):
            if name.endswith((".so", "/RECORD", "/")) or name.startswith("tools/"):
                continue
            data = source.read(name)
            if name.startswith(DIST_INFO):
                data = rewrite_metadata(name, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record.append(f"{name},sha256={digest},{len(data)}")
            out.writestr(zipfile.ZipInfo(name, EPOCH), data, zipfile.ZIP_DEFLATED)
        name = f"{DIST_INFO}/RECORD"
        out.writestr(zipfile.ZipInfo(name, EPOCH), "\n".join([*record, f"{name},,", ""]))
    return target


def main() -> None:
    if importlib.util.find_spec("detectron2") is not None:
        print("Detectron2 is already installed: left as it is")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "repacked").mkdir()
        wheel = repack(download(folder), folder / "repacked")
        pip("install", "--no-deps", "--no-index", str(wheel))
    print(f"Detectron2 installed from {NAME} {VERSION} (pure Python)")


if __name__ == "__main__":
    main()
