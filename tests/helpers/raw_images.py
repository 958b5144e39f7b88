"""Image files written sample by sample, of depths that Pillow reads but does not write."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np


def _rows(values: np.ndarray, bits: int) -> list[bytes]:
    """Each row's samples packed, the most significant bit first, filled up to whole bytes."""
    rows = []
    for row in values:
        text = "".join(format(int(v) & ((1 << bits) - 1), f"0{bits}b") for v in row)
        text += "0" * (-len(text) % 8)
        rows.append(int(text, 2).to_bytes(len(text) // 8, "big"))
    return rows


def write_png(path: Path, values: np.ndarray, bits: int, palette: bool = False) -> None:
    """A grey or palette PNG of these samples (H, W); grey ones of 16 bits are 0..65535."""
    height, width = values.shape

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + name
            + content
            + struct.pack(">I", zlib.crc32(name + content))
        )

    content = chunk(
        b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 3 if palette else 0, 0, 0, 0)
    )
    content += chunk(b"PLTE", bytes(k * 37 % 256 for k in range(3 << bits))) if palette else b""
    content += chunk(
        b"IDAT", zlib.compress(b"".join(b"\0" + row for row in _rows(values, bits)))
    ) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


def write_tiff(
    path: Path,
    values: np.ndarray,
    bits: int,
    *,
    from_white: bool = False,
    signed: bool = False,
    orientation: int = 1,
) -> None:
    """An uncompressed grey TIFF, little-endian, of these samples (H, W)."""
    height, width = values.shape
    if bits in (16, 32):
        data = (values.astype(np.int64) & ((1 << bits) - 1)).astype(f"<u{bits // 8}").tobytes()
    else:
        data = b"".join(_rows(values, bits))
    tags = {
        256: width,
        257: height,
        258: bits,
        259: 1,
        262: 0 if from_white else 1,
        266: 1,
        273: 0,
        274: orientation,
        277: 1,
        278: height,
        279: len(data),
        339: 2 if signed else 1,
    }
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    path.write_bytes(
        b"II*\0" + struct.pack("<IH", 8, len(tags)) + directory + struct.pack("<I", 0) + data
    )
