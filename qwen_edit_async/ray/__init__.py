"""Edits on a Ray cluster, with Ray Data or Daft, within the limits of one account (extra ``ray``, about 700 MB).

::

    import ray
    from qwen_edit_async.ray import EditRows, start_hub

    hub = start_hub("/data/job", max_in_flight=64, submit_rate=20)
    options = {"hub": hub, "save_to": "/shared/edited"}
    rows = ray.data.read_csv("/shared/edits.csv")
    edited = rows.map(EditRows, fn_constructor_kwargs=options, concurrency=4, num_cpus=0.5)
    edited.write_parquet("/shared/table")
    print(hub.stop().text())

The hub is an actor that submits and journals all edits. A worker sends the edit of each row to the hub. When the hub
asks for the images, the worker sends the images or presigned URLs. When the edit is completed, the worker downloads the
pictures. A worker mostly waits, so it does not need a whole CPU. Ray repeats the work of a process that dies, but no
edit is paid for twice:

- If a worker dies, its rows run again. The hub waits for edits in flight, and takes finished edits from the journal.
- If the hub dies, Ray restarts it and repeats the workers' calls. Edits that the hub was submitting when it died are
  ``uncertain``.
- If the head node dies, start Ray, the hub and the job again. The journal's folder must have survived.
"""

from __future__ import annotations

from qwen_edit_async.ray.hub import Hub, get_hub, start_hub
from qwen_edit_async.ray.rows import EditedRow, EditRows

__all__ = ["EditRows", "EditedRow", "Hub", "get_hub", "start_hub"]
