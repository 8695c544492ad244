"""The settings of a store client: a JSON file, or environment variables.

The file is the one that MOONCAKE_CONFIG_PATH names. Without it MOONCAKE_MASTER is needed.
"""

import json
import os
from dataclasses import dataclass
from typing import Any

from ._sizes import parse_size

DEFAULT_GLOBAL_SEGMENT_SIZE = 3355443200
DEFAULT_LOCAL_BUFFER_SIZE = 1073741824
REQUIRED = ("local_hostname", "metadata_server", "master_server_address")


def _parse_size(value: Any) -> int:
    """Bytes of a number or of a text such as "4gb"."""
    try:
        return parse_size(value)
    except ValueError as reason:
        raise ValueError(f"Invalid size: {reason}") from None


@dataclass
class MooncakeConfig:
    """What `MooncakeDistributedStore.setup` is called with."""

    local_hostname: str
    metadata_server: str
    global_segment_size: int
    local_buffer_size: int
    protocol: str
    device_name: str
    master_server_address: str

    @staticmethod
    def from_file(file_path: str) -> "MooncakeConfig":
        """Reads a JSON file; ValueError names a field that is missing."""
        with open(file_path, encoding="utf-8") as file:
            found = json.load(file)
        if not isinstance(found, dict):
            raise ValueError(f"{file_path}: an object expected")
        for name in REQUIRED:
            if name not in found:
                raise ValueError(f"Missing required config field: {name}")
        return MooncakeConfig(
            local_hostname=found["local_hostname"],
            metadata_server=found["metadata_server"],
            global_segment_size=_parse_size(
                found.get("global_segment_size", DEFAULT_GLOBAL_SEGMENT_SIZE)),
            local_buffer_size=_parse_size(
                found.get("local_buffer_size", DEFAULT_LOCAL_BUFFER_SIZE)),
            protocol=found.get("protocol", "tcp"),
            device_name=found.get("device_name", ""),
            master_server_address=found["master_server_address"])

    @staticmethod
    def load_from_env() -> "MooncakeConfig":
        """Reads the file that MOONCAKE_CONFIG_PATH names, else the variables themselves."""
        path = os.getenv("MOONCAKE_CONFIG_PATH")
        if path:
            return MooncakeConfig.from_file(path)
        master = os.getenv("MOONCAKE_MASTER")
        if not master:
            raise ValueError("Neither MOONCAKE_CONFIG_PATH nor MOONCAKE_MASTER is set")
        host = os.getenv("MOONCAKE_LOCAL_HOSTNAME") or os.getenv("LOCAL_HOSTNAME", "localhost")
        return MooncakeConfig(
            local_hostname=host,
            metadata_server=os.getenv("MOONCAKE_TE_META_DATA_SERVER", "P2PHANDSHAKE"),
            global_segment_size=_parse_size(
                os.getenv("MOONCAKE_GLOBAL_SEGMENT_SIZE", DEFAULT_GLOBAL_SEGMENT_SIZE)),
            local_buffer_size=_parse_size(
                os.getenv("MOONCAKE_LOCAL_BUFFER_SIZE", DEFAULT_LOCAL_BUFFER_SIZE)),
            protocol=os.getenv("MOONCAKE_PROTOCOL", "tcp"),
            device_name=os.getenv("MOONCAKE_DEVICE", ""),
            master_server_address=master)
