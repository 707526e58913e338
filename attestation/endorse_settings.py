"""The `endorsements:` part of a host's settings: whom to ask for endorsements, and what must vouch for the answers.

    endorsements:
      intel: https://pccs.example.org                   # PCCS, or Intel's PCS with intel_root_crl beside it
      intel_root_crl: https://crl.example.org/root.der  # left out, a PCCS is asked
      amd: https://kds.example.org
      amd_product: Milan                                # Genoa, Turin
      nvidia_rim: https://rim.example.org
      nvidia_ocsp: https://ocsp.example.org
      ca_file: pccs.pem                                 # for services of one's own, instead of the system's authorities
      proxy: 10.0.0.1:3128
      refresh_before_s: 86400
      offline: true                                     # never ask; use what is kept

No address has a default. A vendor without one keeps the endorsements that the hardware brought.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from attestation.endorse import Endorser
from attestation.endorsement_requests import AmdService, IntelService, NvidiaService
from attestation.fetch import Fetcher, HttpSource
from attestation.roots import PRODUCTION, VENDORS, TrustedRoots, UnsafeSimulatedRoots, parse_pins
from attestation.snp_tcb import SnpProduct

REFRESH_BEFORE_S = 86_400
_TEXTS = {"intel", "intel_root_crl", "amd", "amd_product", "nvidia_rim", "nvidia_ocsp", "ca_file", "proxy"}
_KEYS = _TEXTS | {"refresh_before_s", "offline", "unsafe_simulated_roots"}


def parse_endorser(value: object, base: Path, folder: Path) -> Endorser:
    """Read the settings.

    Args:
        value: what stands under `endorsements:`.
        base: relative paths are relative to it.
        folder: where answers are kept.

    Raises:
        ValueError: a key is unknown or of the wrong kind, an address may not be asked, or none is given.
    """
    if not isinstance(value, dict) or not value.keys() <= _KEYS:
        raise ValueError(f"endorsements may have {', '.join(sorted(_KEYS))}")
    texts = {name: value.get(name, "") for name in _TEXTS}
    if not all(isinstance(text, str) for text in texts.values()):
        raise ValueError(f"endorsements: {', '.join(sorted(_TEXTS))} must be text")
    before, offline = value.get("refresh_before_s", REFRESH_BEFORE_S), value.get("offline", False)
    if type(before) is not int or before < 0 or not isinstance(offline, bool):
        raise ValueError("endorsements: refresh_before_s must be seconds, offline true or false")
    intel, amd, rim, responder = (texts[name] for name in ("intel", "amd", "nvidia_rim", "nvidia_ocsp"))
    if not (intel or amd or rim or responder):
        raise ValueError("endorsements name no address: leave them out to use what the hardware brings")
    source = HttpSource(ca_file=base / texts["ca_file"] if texts["ca_file"] else None, proxy=texts["proxy"])
    return Endorser(
        fetcher=Fetcher(folder=folder, source=None if offline else source, refresh_before=timedelta(seconds=before)),
        roots=_roots(value.get("unsafe_simulated_roots")),
        intel=IntelService(base=intel, root_crl=texts["intel_root_crl"]) if intel else None,
        amd=AmdService(base=amd) if amd else None,
        amd_product=SnpProduct(texts["amd_product"] or SnpProduct.MILAN),
        nvidia=NvidiaService(rim=rim, ocsp=responder) if rim or responder else None,
    )


def _roots(value: object) -> TrustedRoots | UnsafeSimulatedRoots:
    if value is None:
        return PRODUCTION
    if not isinstance(value, dict) or not value.keys() <= set(VENDORS):
        raise ValueError(f"endorsements: unsafe_simulated_roots has {', '.join(VENDORS)}")
    return UnsafeSimulatedRoots(**{vendor: parse_pins(pins) for vendor, pins in value.items()})
