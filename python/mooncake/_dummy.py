"""Asks a `mooncake_client` for what a program needs to be a client of the same pool."""

import json

SECONDS_MAX = 10
ANSWER_BYTES_MAX = 64 << 10
NAMES = ("master_server_address", "metadata_server", "protocol", "device_names", "hostname")


class NotThere(Exception):
    """No `mooncake_client` of ours answers there."""


def attach(server):
    """(name for this host, settings) from `host:port`."""
    # These take longer to import than all of this package.
    import http.client
    import ipaddress
    host, _, port = server.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise NotThere(f"{server} is not host:port")
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=SECONDS_MAX)
    try:
        connection.request("GET", "/attach")
        own = connection.sock.getsockname()[0]
        answer = connection.getresponse()
        told = json.loads(answer.read(ANSWER_BYTES_MAX))
        settings = {name: told[name] for name in NAMES}
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as reason:
        raise NotThere(f"no mooncake_client of libmooncake at {server}: {reason!r}") from None
    finally:
        connection.close()
    if answer.status != 200 or not all(isinstance(value, str) for value in settings.values()):
        raise NotThere(f"{server} answers something else")
    if ipaddress.ip_address(own.partition("%")[0]).is_loopback:
        # No name for other hosts; the client has one, and it is on this host.
        return settings["hostname"].rpartition(":")[0], settings
    return f"[{own}]" if ":" in own else own, settings
