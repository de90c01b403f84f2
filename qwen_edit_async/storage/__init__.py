"""Input and result files in local folders and in buckets.

::

    paths       distinguishes local paths from paths in buckets
    bucket      files in S3, Google Cloud Storage, Azure, and other object stores (extra ``cloud``)
    part        files that get their final names only when they are complete
"""
