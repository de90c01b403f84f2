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

from ._item import SAYS_IT_ALL as SAYS_IT_ALL
from ._item import EditDefaults as EditDefaults
from ._item import SourceItem as SourceItem
from ._item import request_of as request_of
from ._keys import KeyNames as KeyNames
from ._keys import Known as Known
from ._keys import crowded_names as crowded_names
from ._keys import folded as folded
from ._keys import hashed_key as hashed_key
from ._keys import image_stem as image_stem
from ._read import DataFrameLike as DataFrameLike
from ._read import Source as Source
from ._read import folder_of as folder_of
from ._read import has_keys as has_keys
from ._read import is_source as is_source
from ._read import read_source as read_source
from ._signed import unsigned as unsigned
