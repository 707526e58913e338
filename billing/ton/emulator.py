"""Runs TON transactions and get-methods in the real TVM, in this process.

The library is the transaction emulator of the TON node (C++), which the `pytvm` wheel carries. We bind it ourselves:
the wheel's wrapper truncates logical times and amounts to 32 bits, leaks every answer and ships outdated prices.
An `Emulator` is not thread-safe; everything crosses as bags of cells (bytes).
"""

from __future__ import annotations

import base64
import ctypes
import importlib.util
import json
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from billing.errors import BillingError, MessageRejectedError

METHOD_GAS_LIMIT = 1_000_000  # gas of one get-method, as lite-servers allow

_LIBRARY = Path("engine") / "libemulator-linux-x86_64.so"
_NO_SEED = b"00" * 32
_NOT_PAID_FOR = "before smart-contract execution"  # the library's words when an account cannot pay a message's import


class EmulatorUnavailableError(BillingError):
    """This machine cannot load the emulator library."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why

    def __str__(self) -> str:
        return f"no TON emulator here: {self.why}"


class EmulationFailedError(BillingError):
    """The emulator could not run what it was given (malformed account, message or stack)."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why

    def __str__(self) -> str:
        return f"the emulator could not run this: {self.why}"


class ExternalNotAcceptedError(MessageRejectedError):
    """The account did not accept the external message; nothing was charged."""

    def __init__(self, exit_code: int | None) -> None:
        super().__init__("unknown" if exit_code is None else str(exit_code))
        self.exit_code = exit_code
        self.args = (exit_code,)

    def __str__(self) -> str:
        if self.exit_code is None:
            return "External message was not accepted: the account has no code or no funds to run it"
        return f"External message was not accepted: exit code {self.exit_code}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """One transaction: its bag of cells and the account (ShardAccount) it leaves behind."""

    transaction: bytes
    shard_account: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodResult:
    """What a get-method left: exit code (0 or 1 is success), gas used and the stack as a bag of cells."""

    exit_code: int
    gas_used: int
    stack: bytes


def library_path() -> Path:
    """Find the emulator library without importing the package that carries it.

    Raises:
        EmulatorUnavailableError: another platform, or the wheel is not installed.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise EmulatorUnavailableError(
            f"the library exists for linux x86_64 only, this is {sys.platform} {platform.machine()}; "
            "run the devnet on such a machine and connect to it"
        )
    spec = importlib.util.find_spec("pytvm")
    if spec is None or not spec.submodule_search_locations:
        raise EmulatorUnavailableError("package pytvm is not installed; run: pip install pytvm==0.0.14")
    path = Path(next(iter(spec.submodule_search_locations))) / _LIBRARY
    if not path.is_file():
        raise EmulatorUnavailableError(f"{path} is missing; reinstall: pip install --force-reinstall pytvm==0.0.14")
    return path


class _Library:
    """The C functions with their exact types."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        free = ctypes.CDLL(None).free
        free.argtypes, free.restype = [ctypes.c_void_p], None
        self._free = free
        pointer, text, u32, u64 = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint32, ctypes.c_uint64
        number, flag = ctypes.c_int, ctypes.c_bool
        self.config_create = self._bind("emulator_config_create", pointer, text)
        self.config_destroy = self._bind("emulator_config_destroy", None, pointer)
        self.create = self._bind("transaction_emulator_create", pointer, text, number)
        self.destroy = self._bind("transaction_emulator_destroy", None, pointer)
        self.set_unixtime = self._bind("transaction_emulator_set_unixtime", flag, pointer, u32)
        self.set_lt = self._bind("transaction_emulator_set_lt", flag, pointer, u64)
        self.set_seed = self._bind("transaction_emulator_set_rand_seed", flag, pointer, text)
        self.emulate = self._bind("transaction_emulator_emulate_transaction", pointer, pointer, text, text)
        self.tvm_create = self._bind("tvm_emulator_create", pointer, text, text, number)
        self.tvm_destroy = self._bind("tvm_emulator_destroy", None, pointer)
        self.tvm_set_c7 = self._bind("tvm_emulator_set_c7", flag, pointer, text, u32, u64, text, text)
        self.tvm_set_config = self._bind("tvm_emulator_set_config_object", flag, pointer, pointer)
        self.tvm_set_gas = self._bind("tvm_emulator_set_gas_limit", flag, pointer, ctypes.c_int64)
        self.tvm_get = self._bind("tvm_emulator_run_get_method", pointer, pointer, number, text)
        self._bind("emulator_set_verbosity_level", flag, number)(0)  # the C++ side prints nothing

    def _bind(self, name: str, result: Any, *arguments: Any) -> Any:  # noqa: ANN401  # ctypes is untyped
        function = getattr(self._library, name)
        function.restype, function.argtypes = result, list(arguments)
        return function

    def take(self, answer: int | None) -> dict[str, Any]:
        """Read the JSON text the library allocated, and free it."""
        if not answer:
            raise EmulationFailedError("the library returned nothing")
        try:
            parsed: dict[str, Any] = json.loads(ctypes.string_at(answer))
        finally:
            self._free(answer)
        return parsed


class Emulator:
    """A TVM with one chain configuration; creating it takes milliseconds, keep it alive."""

    def __init__(self, config: bytes) -> None:
        """Load the library and the configuration dictionary (a bag of cells)."""
        self._library = _Library(library_path())
        text = base64.b64encode(config)
        self._handle = self._library.create(text, 0)
        self._config = self._library.config_create(text)
        if not self._handle or not self._config:
            raise EmulationFailedError("the chain configuration is not one the emulator understands")

    def close(self) -> None:
        """Free the library's objects; the emulator cannot be used afterwards."""
        if self._handle:
            self._library.destroy(self._handle)
            self._library.config_destroy(self._config)
        self._handle = self._config = None

    def execute(self, *, shard_account: bytes, message: bytes, now: int, lt: int, seed: bytes = b"") -> Execution:
        """Run one message on one account.

        Args:
            shard_account: ShardAccount as a bag of cells.
            message: inbound message as a bag of cells.
            now: unix time the contract sees.
            lt: logical time of the transaction.
            seed: 32 bytes of block randomness; zeros when empty.

        Raises:
            ExternalNotAcceptedError: an external message the account refused.
            EmulationFailedError: bytes the emulator does not understand.
        """
        library = self._library
        library.set_unixtime(self._handle, now)
        library.set_lt(self._handle, lt)
        library.set_seed(self._handle, seed.hex().encode() if seed else _NO_SEED)
        answer = library.take(library.emulate(self._handle, base64.b64encode(shard_account), base64.b64encode(message)))
        if answer["success"]:
            return Execution(
                transaction=base64.b64decode(answer["transaction"]),
                shard_account=base64.b64decode(answer["shard_account"]),
            )
        if answer.get("external_not_accepted") or _NOT_PAID_FOR in str(answer.get("error")):
            raise ExternalNotAcceptedError(answer.get("vm_exit_code"))
        raise EmulationFailedError(str(answer.get("error")))

    def run_get_method(
        self,
        *,
        code: bytes,
        data: bytes,
        address: str,
        method_id: int,
        stack: bytes,
        now: int,
        balance: int,
        gas_limit: int = METHOD_GAS_LIMIT,
    ) -> MethodResult:
        """Run a get-method of a contract given by its code and data cells (bags of cells).

        Args:
            code: contract code.
            data: contract data.
            address: raw form, `0:hex`.
            method_id: `(crc16(name) & 0xffff) | 0x10000`, or the number itself.
            stack: VmStack as a bag of cells.
            now: unix time the contract sees.
            balance: nanotons the contract sees.
            gas_limit: gas before the run is cut.
        """
        library = self._library
        handle = library.tvm_create(base64.b64encode(code), base64.b64encode(data), 0)
        if not handle:
            raise EmulationFailedError("code or data is not a bag of cells")
        try:
            library.tvm_set_config(handle, self._config)
            if not library.tvm_set_c7(handle, address.encode(), now, balance, _NO_SEED, None):
                raise EmulationFailedError(f"address {address} is not accepted")
            library.tvm_set_gas(handle, gas_limit)
            answer = library.take(library.tvm_get(handle, method_id, base64.b64encode(stack)))
        finally:
            library.tvm_destroy(handle)
        if not answer["success"]:
            raise EmulationFailedError(str(answer.get("error")))
        return MethodResult(
            exit_code=int(answer["vm_exit_code"]),
            gas_used=int(answer["gas_used"]),
            stack=base64.b64decode(answer["stack"]),
        )
