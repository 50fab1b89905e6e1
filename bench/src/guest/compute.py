# SPDX-License-Identifier: Apache-2.0
# Pure Python, in the manner of pyperformance.  Prints `NAME NANOSECONDS`, argv[1] times, after once
# for the caches.
import json
import re
import sys
import time


def loops():
    """Sieve, and n-queens with sets."""
    sieve = bytearray([1]) * 200_000
    for number in range(2, 448):
        if sieve[number]:
            for multiple in range(number * number, len(sieve), number):
                sieve[multiple] = 0
    assert sum(sieve) == 17_986

    def queens(row, columns, falling, rising, size):
        if row == size:
            return 1
        found = 0
        for column in range(size):
            if column in columns or row + column in falling or row - column in rising:
                continue
            found += queens(
                row + 1, columns | {column}, falling | {row + column}, rising | {row - column}, size
            )
        return found

    assert queens(0, frozenset(), frozenset(), frozenset(), 7) == 40


def documents():
    """JSON there and back."""
    document = {
        f"key {number}": {"list": list(range(20)), "text": "trine " * number, "half": number / 2}
        for number in range(100)
    }
    for _ in range(25):
        assert json.loads(json.dumps(document, indent=1)) == document


def patterns():
    """Regular expressions over a log."""
    log = "".join(
        f"2026-01-{day % 28 + 1:02} host{day % 7} app[{day}]: GET /path/{day}/x?y={day} 200 {day * 37}\n"
        for day in range(4000)
    )
    pattern = re.compile(r"(\d+)-(\d+)-(\d+) (\w+) app\[(\d+)\]: (GET|PUT) (\S+) (\d{3}) (\d+)")
    for _ in range(8):
        assert len(pattern.findall(log)) == 4000
        assert re.sub(r"host([0-9])", r"node-\1", log).count("node-") == 4000


for turn in range(int(sys.argv[1]) + 1):
    for name, work in (("loops", loops), ("json", documents), ("regex", patterns)):
        begun = time.perf_counter_ns()
        work()
        took = time.perf_counter_ns() - begun
        if turn:
            print(name, took)
