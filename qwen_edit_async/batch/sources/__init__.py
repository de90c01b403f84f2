"""Edits out of what users have: a folder, a pattern, a picture, a table, a data frame.

Nothing here keeps a picture's content, or more of a table than a page of its rows: a source is read as often as it is
needed. A table's columns are ``image``, ``image2``, ``image3``, ``instruction``, ``key`` and the parameters of
:class:`EditParameters`; others travel along in ``EditRequest.metadata``, and are noted.

::

    _read       what a source is, and its items            _advice    what to do about one without pictures
    _pictures   folders, patterns      _text   CSV, JSON Lines      _frames   Parquet, data frames (extra `tables`)
    ------------------------------------------------------------------------------------------ pure below
    _rows       a table's columns and cells
    _keys       a key of its own for each item
    _signed     URLs without their signatures
    _item       one edit of a source, or why there is none
"""

from qwen_edit_async.batch.sources.item import SAYS_IT_ALL as SAYS_IT_ALL
from qwen_edit_async.batch.sources.item import EditDefaults as EditDefaults
from qwen_edit_async.batch.sources.item import SourceItem as SourceItem
from qwen_edit_async.batch.sources.item import request_of as request_of
from qwen_edit_async.batch.sources.keys import KeyNames as KeyNames
from qwen_edit_async.batch.sources.keys import Known as Known
from qwen_edit_async.batch.sources.keys import crowded_names as crowded_names
from qwen_edit_async.batch.sources.keys import folded as folded
from qwen_edit_async.batch.sources.keys import hashed_key as hashed_key
from qwen_edit_async.batch.sources.keys import image_stem as image_stem
from qwen_edit_async.batch.sources.read import DataFrameLike as DataFrameLike
from qwen_edit_async.batch.sources.read import Source as Source
from qwen_edit_async.batch.sources.read import folder_of as folder_of
from qwen_edit_async.batch.sources.read import has_keys as has_keys
from qwen_edit_async.batch.sources.read import is_source as is_source
from qwen_edit_async.batch.sources.read import read_source as read_source
from qwen_edit_async.batch.sources.signed import unsigned as unsigned
