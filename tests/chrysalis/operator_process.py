"""An operator and a client with sealed keys, in a process of their own: prints where they are, ends with its input.

Ray reads its environment once per process, so a test process can hold one cluster at most; this one is thrown away.
"""

import asyncio
import json
import sys
from pathlib import Path

import yaml

from billing.key_files import read_key_file
from billing.keys import KdfCost, KeyKind, seal_key
from billing.tariff import Tariff
from chrysalis.local.network import LocalNetwork, NetworkPlan

PASSWORD = "a password that stands nowhere else"
CHEAP = KdfCost(memory_kib=19_456, iterations=2, lanes=1)
MODEL = Path(__file__).parents[2] / "examples" / "demo_model" / "model"
SETTINGS = {
    "operator/operator.yaml": {"operator_key": "ed25519", "treasury_key": "ed25519", "ticket_key": "secret"},
    "client/client.yaml": {"wallet": "ed25519"},
}


def seal_everything(folder: Path) -> dict[str, str]:
    """Replace every key that the settings name by a sealed one; returns the keys, in hex, by file."""
    secrets: dict[str, str] = {}
    for name, keys in SETTINGS.items():
        path = folder / name
        values = yaml.safe_load(path.read_text())
        for setting, kind in keys.items():
            file = path.parent / values[setting]
            secret = read_key_file(file)
            assert isinstance(secret, bytes)
            secrets[str(file)] = secret.hex()
            file.write_bytes(seal_key(secret, PASSWORD.encode(), kind=KeyKind(kind), cost=CHEAP).encode())
            values[setting] = {"file": file.name, "password_file": "password"}
        password = path.parent / "password"
        password.write_text(PASSWORD + "\n")
        password.chmod(0o600)
        path.write_text(yaml.safe_dump(values, sort_keys=False))
    return secrets


def main() -> None:
    tariff = Tariff(prompt_price=10**9, completion_price=2 * 10**9)
    plan = NetworkPlan(
        base_port=int(sys.argv[1]), model=MODEL, model_name="demo", tariff=tariff, context=256, folder=Path(sys.argv[2])
    )
    net = LocalNetwork(plan)
    try:
        asyncio.run(net.start_chain())
        secrets = seal_everything(net.folder)
        net.start_operator()
        net.start_client()
        ready = {"ready": net.billing("ready"), "secrets": secrets, "account": net.account.hex()}
        print(json.dumps(ready | {"pids": [process.pid for process in net.supervisor.processes()]}), flush=True)
        for line in sys.stdin:  # the test asks for what the books say
            print(json.dumps({"available": net.billing("available", bytes.fromhex(line.strip()))}), flush=True)
    finally:
        left = net.stop()
        print(json.dumps({"left": left}), flush=True)


if __name__ == "__main__":
    main()
