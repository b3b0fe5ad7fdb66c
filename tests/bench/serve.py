"""How many tiles a second `saltray serve` answers, how fast, and what it does when there are too many.

    python tests/bench/serve.py --url http://127.0.0.1:8000/ --tile tile.png --out serve.json

It sends one tile over and over, from 1, 8 and 64 clients at once, each of which sends the next when it has its
answer. Start the service before; SALTRAY_SERVE_TOKEN is sent if it is set. Times are of the client, so run it on
another machine than the service, or give the service its cores.
"""

import argparse
import asyncio
import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np


async def ask(client: httpx.AsyncClient, tile: bytes, end: float, seen: list[tuple[int, float]]) -> None:
    """One client: status and seconds of each of its requests."""
    while (start := time.monotonic()) < end:
        try:
            status = (await client.post("predict", content=tile)).status_code
        except httpx.HTTPError as error:
            print(f"  {type(error).__name__}: {error}")
            status = 0
        seen.append((status, time.monotonic() - start))
        if status == 503:
            await asyncio.sleep(0.1)  # less than Retry-After asks for, to keep the pressure up


async def load(url: str, tile: bytes, clients: int, seconds: float) -> dict[str, Any]:
    """Requests a second, and percentiles of the time that the answered ones took, with so many clients."""
    token = os.environ.get("SALTRAY_SERVE_TOKEN")
    headers = {"Accept": "image/png"} | ({"Authorization": f"Bearer {token}"} if token else {})
    limits = httpx.Limits(max_connections=clients)
    seen: list[tuple[int, float]] = []
    async with httpx.AsyncClient(base_url=url, headers=headers, limits=limits, timeout=300) as client:
        await ask(client, tile, time.monotonic() + 1, [])
        start = time.monotonic()
        await asyncio.gather(*(ask(client, tile, start + seconds, seen) for _ in range(clients)))
        took = time.monotonic() - start
    answered = np.array([each for status, each in seen if status == 200])
    median, high = (float(np.percentile(answered, part)) if len(answered) else None for part in (50, 99))
    return {
        "clients": clients,
        "requests_per_second": round(len(answered) / took, 2),
        "p50_ms": median and round(1000 * median, 1),
        "p99_ms": high and round(1000 * high, 1),
        "statuses": {str(status): count for status, count in sorted(Counter(status for status, _ in seen).items())},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000/")
    parser.add_argument("--tile", type=Path, required=True)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    ready = httpx.get(f"{options.url}ready", timeout=60).raise_for_status().json()
    print(f"{ready['ensemble']}, tiles of {ready['height']}x{ready['width']}")
    rows = []
    for clients in options.clients:
        rows.append(asyncio.run(load(options.url, options.tile.read_bytes(), clients, options.seconds)))
        print(json.dumps(rows[-1]))
    if options.out:
        options.out.write_text(json.dumps({"served": ready, "load": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
