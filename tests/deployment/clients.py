"""Clients of the service, valid and hostile ones, in one process: PORT FILE SECONDS CLIENTS HOSTILE; prints what came of it."""

import ast
import asyncio
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path

PORT, SECONDS, CLIENTS, HOSTILE = (int(sys.argv[n]) for n in (1, 3, 4, 5))
BODIES = ast.literal_eval(Path(sys.argv[2]).read_text())
END = time.monotonic() + SECONDS
seen = Counter()


def request(kind, body, *headers):
    lines = ["POST /predict HTTP/1.1", "Host: localhost", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


def is_right(status, answer, expected):
    if status != b"200":
        return False
    found = json.loads(answer)["probabilities"]
    return all(
        abs(a - b) < 1e-6 for one, two in zip(found, expected, strict=True) for a, b in zip(one, two, strict=True)
    )


async def client(number):
    """Sends valid requests on one connection; every one of them must be answered."""
    draw = random.Random(number)
    reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
    while time.monotonic() < END:
        chosen = draw.randrange(len(BODIES["good"]))
        writer.write(request(*BODIES["good"][chosen]))
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        answer = await reader.readexactly(int(head.partition(b"content-length: ")[2].split()[0]))
        right = is_right(head.split()[1], answer, BODIES["expected"][chosen])
        seen["right" if right else f"wrong: {head.split()[1].decode()} {answer[:200]!r}"] += 1
    writer.close()


async def hostile(number):
    """Sends bodies that must be refused, and now and then many requests without an end."""
    while time.monotonic() < END:
        number += 1
        opened = []
        try:
            for _ in range(50 if number % 7 == 0 else 1):
                opened.append(await asyncio.open_connection("127.0.0.1", PORT))
            if len(opened) > 1:
                for _, writer in opened:
                    writer.write(b"POST /predict HT")
                await asyncio.sleep(0.5)
                continue
            reader, writer = opened[0]
            writer.write(request(*BODIES["bad"][number % len(BODIES["bad"])], "Connection: close"))
            status = (await reader.read())[9:12].decode()
            seen["refused" if status in ("413", "422") else f"hostile: {status}"] += 1
        except OSError:  # the service does not read the rest of a body that is too large
            seen["closed"] += 1
        finally:
            for _, writer in opened:
                writer.close()


async def main():
    await asyncio.gather(*(client(n) for n in range(CLIENTS)), *(hostile(n) for n in range(HOSTILE)))


asyncio.run(main())
print(json.dumps(seen))
