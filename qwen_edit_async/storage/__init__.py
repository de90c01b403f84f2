"""Where results go and inputs lie: local folders and buckets.

::

    paths       tells a local path from a path in a bucket
    bucket      files in S3, Google Cloud Storage, Azure, and other object stores (extra ``cloud``)
    local       local files
    part        a file that is being written
"""
