"""An operator's settings and keys in a folder, for commands that read no chain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


def write_operator(folder: Path, **changes: Any) -> Path:
    """The settings file, with a highload treasury on the devnet; books lie in `state`."""
    for number, name in enumerate(("operator.key", "treasury.key", "ticket.key"), 1):
        (folder / name).write_text(f"{number:02x}" * 32)
        (folder / name).chmod(0o600)
    (folder / "policy.yaml").write_text("roots: production\n")
    values = {
        "chain": {"host": "127.0.0.1", "port": 1, "public_key": "A" * 43 + "=", "network_id": -777},
        "registry": "0:" + "00" * 32,
        "policy": "policy.yaml",
        "state": "state",
        "operator_key": "operator.key",
        "treasury_key": "treasury.key",
        "ticket_key": "ticket.key",
        "relay": "127.0.0.1:8443",
    }
    path = folder / "operator.yaml"
    path.write_text(yaml.safe_dump(values | changes))
    return path
