"""A process that asks for health and metrics again and again: `floods` runs it to measure by the clock.

Given the two ports; ends when its standard input does, and prints the slowest of each, in milliseconds.
"""

import select
import sys
import time
import urllib.request

_EVERY_S = 0.01


def took_s(url: str) -> float:
    """Return how long an answer takes, with a connection of its own."""
    began_at = time.perf_counter()
    urllib.request.urlopen(url, timeout=60).read()
    return time.perf_counter() - began_at


def main(port: str, admin_port: str) -> None:
    """Ask until nobody listens any more."""
    health_s = metrics_s = 0.0
    while not select.select([sys.stdin], [], [], _EVERY_S)[0]:
        health_s = max(health_s, took_s(f"http://127.0.0.1:{port}/healthz"))
        metrics_s = max(metrics_s, took_s(f"http://127.0.0.1:{admin_port}/metrics"))
    print(round(health_s * 1e3), round(metrics_s * 1e3))


if __name__ == "__main__":
    main(*sys.argv[1:])
