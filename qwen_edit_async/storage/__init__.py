"""The places of inputs and results: local folders and buckets.

::

    paths       tells a local path from a path in a bucket
    bucket      files in S3, Google Cloud Storage, Azure, and other object stores (extra ``cloud``)
    local       local files
    part        a file that has no final name before it is complete
"""
