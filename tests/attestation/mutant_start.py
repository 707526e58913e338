"""How mutation testing starts each run of pytest (`-p` in pyproject.toml): with nothing that another run computed.

mutmut forks every run from a process that ran the tests before. What the verifier keeps there by the bytes it depends
on was computed by unchanged code, and a broken check would not be asked.
"""

import sys

from attestation.chain_cache import ChainCache


def pytest_configure() -> None:
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "attestation":
            for value in list(vars(module).values()):
                if callable(getattr(value, "cache_clear", None)):
                    value.cache_clear()
                elif isinstance(value, ChainCache):
                    value._entries.clear()
