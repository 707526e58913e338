import pickle
import platform
import subprocess
import sys

import pytest

from billing.ton.config import slim_config
from billing.ton.devnet.messages import FAUCET, NO_ACCOUNT, AccountId, minted_message, parse_account
from billing.ton.emulator import (
    EmulationFailedError,
    Emulator,
    EmulatorUnavailableError,
    ExternalNotAcceptedError,
    library_path,
)

NOW = 1_800_000_000
PAYEE = AccountId(0, b"\x07" * 32)


@pytest.fixture(scope="module")
def emulator() -> Emulator:
    return Emulator(slim_config(-777))


def test_amounts_and_logical_times_above_32_bits_arrive_whole(emulator: Emulator) -> None:
    message = minted_message(PAYEE, 5_000_000_000_000, lt=6_000_000_000_000, now=NOW)
    done = emulator.execute(shard_account=NO_ACCOUNT.boc, message=message.boc, now=NOW, lt=6_000_000_001_000)
    account = parse_account(done.shard_account)
    assert account.amount == 5_000_000_000_000
    assert account.last[0] == 6_000_000_001_000


def test_the_same_message_gives_the_same_transaction(emulator: Emulator) -> None:
    message = minted_message(PAYEE, 7, lt=1_000, now=NOW)
    runs = {emulator.execute(shard_account=NO_ACCOUNT.boc, message=message.boc, now=NOW, lt=2_000) for _ in range(3)}
    assert len(runs) == 1


def test_bytes_that_are_no_message_are_refused_by_name(emulator: Emulator) -> None:
    with pytest.raises(EmulationFailedError):
        emulator.execute(shard_account=NO_ACCOUNT.boc, message=NO_ACCOUNT.boc, now=NOW, lt=1)
    with pytest.raises(EmulationFailedError):
        emulator.execute(shard_account=b"nonsense", message=b"nonsense", now=NOW, lt=1)


def test_a_get_method_of_no_code_is_refused_by_name(emulator: Emulator) -> None:
    with pytest.raises(EmulationFailedError, match="not a bag of cells"):
        emulator.run_get_method(code=b"", data=b"", address=str(FAUCET), method_id=85143, stack=b"", now=NOW, balance=0)


def test_another_platform_gets_a_sentence_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(EmulatorUnavailableError, match="run the devnet on such a machine and connect to it"):
        library_path()


def test_a_missing_wheel_gets_a_sentence_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(EmulatorUnavailableError, match="pip install pytvm"):
        library_path()


@pytest.mark.parametrize("code", [None, 33])
def test_a_refusal_survives_pickling(code: int | None) -> None:
    error = ExternalNotAcceptedError(code)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.exit_code) == (str(error), code)


def test_the_wheel_s_own_wrapper_is_never_imported() -> None:
    program = "import sys, billing.ton.devnet.server, billing.ton.emulator as e; e.library_path(); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "billing.ton.emulator" in modules
    assert not {"pytvm", "pkg_resources", "pytoniq"} & set(modules)
