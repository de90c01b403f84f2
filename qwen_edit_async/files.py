"""Makes safe file names."""

from __future__ import annotations

import hashlib
import re

_UNSAFE_IN_NAMES = re.compile(r"[^\w.-]+")
_DEVICE = re.compile(r"^(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])\.", re.IGNORECASE)
"""The start of a file name that Windows reserves for a device: the device's name and a dot."""

_MAX_STEM_BYTES = 160


def safe_stem(text: str) -> str:
    """Convert any text, even from a server, to a stem for safe file names such as ``stem-0.png``."""
    stem = _DEVICE.sub(r"\1_.", _UNSAFE_IN_NAMES.sub("_", text).lstrip("."))
    stem = stem.encode("utf-8", "replace")[:_MAX_STEM_BYTES].decode("utf-8", "ignore")
    if stem == text:
        return stem
    # Different texts may give the same stem, so a hash keeps their names apart.
    return f"{stem}-{hashlib.blake2s(text.encode('utf-8', 'replace'), digest_size=4).hexdigest()}"
