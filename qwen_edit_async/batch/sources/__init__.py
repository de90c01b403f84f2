"""Reads edits from a source: a folder, a pattern, a picture, a table, a data frame or a dataset.

A source can be read more than once. At most a few hundred rows of a table file are in memory at a time. A table's
columns are ``image``, ``image2``, ``image3``, ``instruction``, ``key``, ``parameters`` (an object) and one column per
parameter. Other columns go to ``EditRequest.metadata``, and a note names them.

::

    read        recognises the kind of a source, and gives hints if the source has no pictures
    folders     folders, patterns     tables   CSV, JSON Lines      frames   Parquet, data frames, datasets (extras)
    buckets     folders and patterns in buckets (extra)
"""

from qwen_edit_async.batch.sources.buckets import tagged as tagged
from qwen_edit_async.batch.sources.read import Source as Source
from qwen_edit_async.batch.sources.read import is_source as is_source
from qwen_edit_async.batch.sources.read import is_table as is_table
from qwen_edit_async.batch.sources.read import read_source as read_source
from qwen_edit_async.batch.sources.read import table_folder as table_folder
