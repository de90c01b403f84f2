"""What can be edited: kinds of images, their checks, and how they become text."""
