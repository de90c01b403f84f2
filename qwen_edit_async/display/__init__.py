"""Edits as HTML: cards, the gallery, thumbnails."""
