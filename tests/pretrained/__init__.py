"""Models as folders, and a hub."""

from __future__ import annotations

from hyperclip.tinyscenes.drawing import render_scene

IMAGE = render_scene("val_unseen", 3)[0]
"""A drawn scene (H, W, 3)."""
WORDS = "red striped star, star; blue plain circle; green thing; ground"
