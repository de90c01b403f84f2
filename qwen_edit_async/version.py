"""The version, for the build, the User-Agent header and ``qwen-edit --version``."""

__version__ = "0.1.0"
