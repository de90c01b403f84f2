"""A hub's worker that needs only the standard library: ``hub_worker.py URL TOKEN FIRST STEP ROWS THREADS``.

It asks for the edit of every ``STEP``-th row from ``FIRST`` on, and prints a line for each outcome. It repeats failed
requests.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

IMAGE = "https://pictures.example/cat.png"
DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def instruction(row: int) -> str:
    return f"make it snow, row {row}"


def edit(url: str, token: str, row: int) -> None:
    body = json.dumps({"key": f"row{row}", "image": IMAGE, "instruction": instruction(row)}).encode()
    call = urllib.request.Request(f"{url}/edits", body, {"Authorization": f"Bearer {token}"})
    while True:
        try:
            with DIRECTLY.open(call) as reply:
                outcome = json.load(reply)
        except (OSError, http.client.HTTPException, ValueError):
            time.sleep(0.05)
            continue
        # A short write to a pipe is atomic.
        os.write(1, f"{row} {outcome['status']} {outcome['task_id']}\n".encode())
        return


if __name__ == "__main__":
    address, secret, *numbers = sys.argv[1:]
    first, step, rows, threads = map(int, numbers)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda row: edit(address, secret, row), range(first, rows, step)))
