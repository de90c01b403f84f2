"""``python -m qwen_edit_async`` is the ``qwen-edit`` command."""

import sys

from qwen_edit_async.cli import main

if __name__ == "__main__":
    sys.exit(main())
