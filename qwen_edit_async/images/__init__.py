"""Input images: their kinds, their checks, and their conversion to uploads."""
