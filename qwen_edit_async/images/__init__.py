"""What can be edited: the kinds of images, their checks, and how they become text."""
