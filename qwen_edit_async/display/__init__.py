"""Edits as HTML: cards for notebooks, the gallery page, and thumbnails."""
