"""Sends one request and prints the answer as it comes: ask.py METHOD URL [JSON [NAME:VALUE]]."""

import sys
import urllib.error
import urllib.request

SECONDS_MAX = 60


def main(method, url, body="", header=""):
    headers = {"Content-Type": "application/json"}
    if header:
        name, _, value = header.partition(":")
        headers[name] = value.strip()
    request = urllib.request.Request(url, body.encode() or None, headers, method=method)
    try:
        answer, status = urllib.request.urlopen(request, timeout=SECONDS_MAX), 0
    except urllib.error.HTTPError as error:
        answer, status = error, 1
    with answer:
        while piece := answer.read1(1 << 16):
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
    if not answer.headers.get("Content-Type", "").startswith("text/event-stream"):
        print()
    return status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
