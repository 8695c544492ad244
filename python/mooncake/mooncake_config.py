"""The settings of a store client: a JSON file, or environment variables.

The file is the one that MOONCAKE_CONFIG_PATH names. Without it MOONCAKE_MASTER is needed.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any, Dict, Optional

from ._sizes import parse_size

DEFAULT_GLOBAL_SEGMENT_SIZE = 3355443200
DEFAULT_LOCAL_BUFFER_SIZE = 1073741824
DEFAULT_CLIENT_HTTP_PORT = 9300
DEFAULT_TENANT = "default"
REQUIRED = ("local_hostname", "metadata_server", "master_server_address")
TRUE, FALSE = ("true", "1", "yes", "on", "enable"), ("false", "0", "no", "off", "disable", "")


def _parse_segment_size(value: Any) -> int:
    """Bytes of a number, of a text such as "4gb", or of a number with a fraction or an exponent;
    what is less than a byte is dropped."""
    try:
        return parse_size(value)
    except ValueError as reason:
        try:
            if not isinstance(value, bool):
                return int(float(value))
        except (ValueError, TypeError, OverflowError):
            pass
        raise ValueError(f"Invalid size: {reason}") from None


def _parse_bool(value: Any) -> bool:
    """A boolean, also as a number or a word; ValueError for another word."""
    if value is None or isinstance(value, (bool, int, float)):
        return bool(value)
    word = str(value).strip().lower()
    if word not in TRUE + FALSE:
        raise ValueError(f"Invalid boolean value: {value!r}")
    return word in TRUE


@dataclass
class MooncakeConfig:
    """What `MooncakeDistributedStore.setup` is called with.

    ValueError when a size is negative, or when the protocol or an address is no text or empty.
    """

    local_hostname: str
    metadata_server: str
    global_segment_size: int
    local_buffer_size: int
    protocol: str
    device_name: Optional[str]
    master_server_address: str
    # Of later versions; the store here knows only the tenant "default", and no offload.
    enable_ssd_offload: bool = False
    ssd_offload_path: str = ""
    tenant_id: str = DEFAULT_TENANT
    enable_client_http_server: bool = False
    client_http_port: int = DEFAULT_CLIENT_HTTP_PORT

    def __post_init__(self) -> None:
        for name in (*REQUIRED, "protocol"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise ValueError(f"{name} is a text that is not empty, not {value!r}")
        self.protocol = self.protocol.strip().lower()
        for name in ("global_segment_size", "local_buffer_size"):
            if getattr(self, name) < 0:
                raise ValueError(f"Invalid size: {name} is negative")

    @staticmethod
    def from_file(file_path: str) -> MooncakeConfig:
        """Reads a JSON file; ValueError names a field that is missing."""
        with open(file_path, encoding="utf-8") as file:
            found = json.load(file)
        if not isinstance(found, dict):
            raise ValueError(f"{file_path}: an object expected")
        for name in REQUIRED:
            if name not in found:
                raise ValueError(f"Missing required config field: {name}")
        return made(found)

    @staticmethod
    def load_from_env() -> MooncakeConfig:
        """Reads the file that MOONCAKE_CONFIG_PATH names, else the variables themselves."""
        path = os.getenv("MOONCAKE_CONFIG_PATH")
        if path:
            return MooncakeConfig.from_file(path)
        if not os.getenv("MOONCAKE_MASTER"):
            raise ValueError("Neither the environment variable 'MOONCAKE_CONFIG_PATH' nor "
                             "'MOONCAKE_MASTER' is set.")
        found = {name: os.getenv(variable) for name, variable in VARIABLES.items()}
        found["local_hostname"] = found["local_hostname"] or os.getenv("LOCAL_HOSTNAME",
                                                                       "localhost")
        return made({name: value for name, value in found.items() if value is not None})


VARIABLES = {"local_hostname": "MOONCAKE_LOCAL_HOSTNAME",
             "metadata_server": "MOONCAKE_TE_META_DATA_SERVER",
             "global_segment_size": "MOONCAKE_GLOBAL_SEGMENT_SIZE",
             "local_buffer_size": "MOONCAKE_LOCAL_BUFFER_SIZE",
             "protocol": "MOONCAKE_PROTOCOL", "device_name": "MOONCAKE_DEVICE",
             "master_server_address": "MOONCAKE_MASTER",
             "enable_ssd_offload": "MOONCAKE_OFFLOAD_ENABLED",
             "ssd_offload_path": "MOONCAKE_OFFLOAD_FILE_STORAGE_PATH",
             "tenant_id": "MOONCAKE_TENANT_ID",
             "enable_client_http_server": "MOONCAKE_ENABLE_CLIENT_HTTP_SERVER",
             "client_http_port": "MOONCAKE_CLIENT_HTTP_PORT"}


def made(found: Dict[str, Any]) -> MooncakeConfig:
    """The settings that are given, and for the others what is usual."""
    tenant, path = found.get("tenant_id"), found.get("ssd_offload_path")
    return MooncakeConfig(
        local_hostname=found["local_hostname"],
        metadata_server=found.get("metadata_server", "P2PHANDSHAKE"),
        global_segment_size=_parse_segment_size(
            found.get("global_segment_size", DEFAULT_GLOBAL_SEGMENT_SIZE)),
        local_buffer_size=_parse_segment_size(
            found.get("local_buffer_size", DEFAULT_LOCAL_BUFFER_SIZE)),
        protocol=found.get("protocol", "tcp"),
        device_name=found.get("device_name", ""),
        master_server_address=found["master_server_address"],
        enable_ssd_offload=_parse_bool(found.get("enable_ssd_offload", False)),
        ssd_offload_path="" if path is None else str(path),
        tenant_id=DEFAULT_TENANT if tenant is None else str(tenant),
        enable_client_http_server=_parse_bool(found.get("enable_client_http_server", False)),
        client_http_port=int(found.get("client_http_port", DEFAULT_CLIENT_HTTP_PORT)))
