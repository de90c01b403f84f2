"""CPU per MB for checking image files before they are sent.

The files are JPEG and PNG pictures of a few MB: imitations of a photo, and noise. One JPEG has restart markers. All
files are in memory, so reading from the disk is not measured.
"""

from __future__ import annotations

import io
import time

import numpy as np
from _report import Row, parse, report
from PIL import Image

from qwen_edit_async.images.prepare import prepare

_MB = 1_000_000


def photo(width: int, height: int) -> Image.Image:
    """Make large soft shapes with a little noise, which compress as photos do."""
    random = np.random.default_rng(1)
    shapes = Image.fromarray(np.clip(random.normal(128, 40, (48, 64, 3)), 0, 255).astype(np.uint8))
    soft = np.asarray(shapes.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray(np.clip(soft + random.integers(-12, 12, soft.shape), 0, 255).astype(np.uint8))


def noise(width: int, height: int) -> Image.Image:
    """Make pixels that no format can compress."""
    return Image.fromarray(np.random.default_rng(2).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(picture: Image.Image, format_name: str, **options: int) -> bytes:
    """Encode a picture."""
    file = io.BytesIO()
    picture.save(file, format_name, **options)
    return file.getvalue()


def cpu_per_mb(content: bytes) -> float:
    """Return the CPU that the check of a file takes, in milliseconds per MB."""
    started = time.process_time()
    prepare([content])
    return (time.process_time() - started) * 1000 / len(content) * _MB


def main() -> None:
    """Run the benchmark."""
    options = parse(__doc__, {"repetitions": 1}, repetitions=(9, "repetitions of each measurement"))
    repetitions = options.repetitions
    files = {
        "photo, JPEG": encoded(photo(3000, 2250), "JPEG", quality=92),
        "photo, JPEG with restart markers": encoded(photo(3000, 2250), "JPEG", quality=92, restart_marker_blocks=4),
        "photo, PNG": encoded(photo(1500, 1125), "PNG"),
        "noise, JPEG": encoded(noise(2000, 1500), "JPEG", quality=95),
        "noise, PNG": encoded(noise(2000, 1500), "PNG", compress_level=1),
    }
    prepare([files["photo, JPEG"]])  # imports Pillow
    rows = [
        Row(f"CPU per MB checked, {kind} (ms)", "library", [cpu_per_mb(content) for _ in range(repetitions)])
        for kind, content in files.items()
    ]
    report("checks", rows, {"repetitions": repetitions}, options)


if __name__ == "__main__":
    main()
