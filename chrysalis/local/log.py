"""The transparency log of a local network: what governance wrote into the registry, once more and for all to see."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attestation.transparency.entries import Allow, Entry, What
from attestation.transparency.store import LogStore
from chrysalis.local.chain import RegistryEntries
from chrysalis.local.settings import make_key

ORIGIN = "local.chrysalis/log"
AGE_MAX_S = 30 * 86_400  # nobody renews its checkpoint; the simulated collateral ends then too


def begin_log(folder: Path, allowed: RegistryEntries) -> dict[str, Any]:
    """Write the log into a new folder, its key beside it; returns the `transparency:` settings that pin it."""
    now = datetime.now(UTC)
    at = int(now.timestamp())
    entries: list[Entry] = [
        *(Allow(at=at, what=What.MEASUREMENT, value=key, label=one.label) for key, one in allowed.measurements.items()),
        *(Allow(at=at, what=What.RIM, value=rim, label="GPU manifest") for rim in allowed.rims),
        *(Allow(at=at, what=What.MODEL, value=root, label=terms.name) for root, terms in allowed.models.items()),
    ]
    with LogStore.create(folder, make_key(folder.with_suffix(".key")), origin=ORIGIN, now=now) as store:
        store.append(entries, now=now)
        return {"log": str(folder), "key": store.key.encode(), "age_max_s": AGE_MAX_S}
