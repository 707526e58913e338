"""Certificates of a cluster: who they are for, how long, and what is refused."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from cluster.certificates import (
    CA_DAYS,
    JOINING_CERTIFICATE,
    JOINING_DAYS,
    JOINING_KEY,
    NODE_DAYS,
    Authority,
    check_certificate,
    read_pin,
    write_certificates,
    write_joining,
)
from cluster.errors import ConfigError

NOW = datetime(2026, 5, 1, tzinfo=UTC)
ADDRESS, OTHER = "10.0.0.2", "10.0.0.3"


def test_each_machine_gets_its_own_key_and_no_machine_the_cas(tmp_path: Path) -> None:
    folders = write_certificates(tmp_path / "tls", "demo", [ADDRESS, OTHER], now=NOW)
    assert {path.name for path in folders[ADDRESS].iterdir()} == {"ca.crt", "node.crt", "node.key"}
    keys = {(folder / "node.key").read_bytes() for folder in folders.values()} | {
        (tmp_path / "tls/ca.key").read_bytes()
    }
    assert len(keys) == 3
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "tls").rglob("*.key")} == {0o600}


def test_a_certificate_names_address_and_loopback_and_lives_for_days(tmp_path: Path) -> None:
    folders = write_certificates(tmp_path, "demo", [ADDRESS], now=NOW)
    certificate = x509.load_pem_x509_certificate((folders[ADDRESS] / "node.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name) for name in names.get_values_for_type(x509.IPAddress)] == [ADDRESS, "127.0.0.1"]
    assert check_certificate(tmp_path, ADDRESS, now=NOW) == NOW + timedelta(days=NODE_DAYS)


def test_a_second_run_keeps_the_ca_and_replaces_keys(tmp_path: Path) -> None:
    first = write_certificates(tmp_path, "demo", [ADDRESS], now=NOW)
    ca, key = (tmp_path / "ca.crt").read_bytes(), (first[ADDRESS] / "node.key").read_bytes()
    write_certificates(tmp_path, "demo", [ADDRESS], now=NOW + timedelta(days=20))
    assert (tmp_path / "ca.crt").read_bytes() == ca
    assert (first[ADDRESS] / "node.key").read_bytes() != key
    assert check_certificate(tmp_path, ADDRESS, now=NOW + timedelta(days=40)) == NOW + timedelta(days=20 + NODE_DAYS)


def test_what_ends_is_not_yet_valid_or_is_missing_is_refused(tmp_path: Path) -> None:
    write_certificates(tmp_path, "demo", [ADDRESS], now=NOW)
    with pytest.raises(ConfigError, match=f"{ADDRESS} ended on 2026-05-31"):
        check_certificate(tmp_path, ADDRESS, now=NOW + timedelta(days=NODE_DAYS))
    with pytest.raises(ConfigError, match="begins on"):
        check_certificate(tmp_path, ADDRESS, now=NOW - timedelta(days=1))
    with pytest.raises(ConfigError, match=f"{OTHER} has no certificate"):
        check_certificate(tmp_path, OTHER, now=NOW)


def test_the_certificate_of_another_machine_or_of_another_ca_is_refused(tmp_path: Path) -> None:
    mine, theirs = (
        write_certificates(tmp_path / name, "demo", [ADDRESS, OTHER], now=NOW) for name in ("mine", "theirs")
    )
    (mine[ADDRESS] / "node.crt").write_bytes((mine[OTHER] / "node.crt").read_bytes())
    with pytest.raises(ConfigError, match="another address"):
        check_certificate(tmp_path / "mine", ADDRESS, now=NOW)
    (mine[ADDRESS] / "node.crt").write_bytes((theirs[ADDRESS] / "node.crt").read_bytes())
    with pytest.raises(ConfigError, match="not one of this CA"):
        check_certificate(tmp_path / "mine", ADDRESS, now=NOW)


@pytest.mark.parametrize(
    "damage", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", b"\x00\xff"]
)
def test_a_damaged_certificate_is_refused_by_name(tmp_path: Path, damage: bytes) -> None:
    folders = write_certificates(tmp_path, "demo", [ADDRESS], now=NOW)
    (folders[ADDRESS] / "node.crt").write_bytes(damage)
    with pytest.raises(ConfigError, match=f"certificate of {ADDRESS}"):
        check_certificate(tmp_path, ADDRESS, now=NOW)


def test_a_ca_without_its_key_or_near_its_end_signs_nothing(tmp_path: Path) -> None:
    write_certificates(tmp_path / "a", "demo", [], now=NOW)
    with pytest.raises(ConfigError, match="the CA ends on"):
        write_certificates(tmp_path / "a", "demo", [ADDRESS], now=NOW + timedelta(days=CA_DAYS - NODE_DAYS + 1))
    other = tmp_path / "b"
    write_certificates(other, "demo", [], now=NOW)
    (tmp_path / "a" / "ca.key").write_bytes((other / "ca.key").read_bytes())
    with pytest.raises(ConfigError, match=r"not the key of ca\.crt"):
        Authority.load(tmp_path / "a")
    (other / "ca.key").unlink()
    with pytest.raises(ConfigError, match="cannot read the CA"):
        write_certificates(other, "demo", [ADDRESS], now=NOW)


def test_the_joining_ca_lives_for_days_signs_no_other_ca_and_leaves_the_pin_alone(tmp_path: Path) -> None:
    write_certificates(tmp_path, "demo", [ADDRESS], now=NOW)
    folder = write_joining(tmp_path, now=NOW)
    joining = Authority.load(folder, JOINING_CERTIFICATE, JOINING_KEY)
    assert (folder / JOINING_KEY).stat().st_mode & 0o777 == 0o600 and not (folder / "ca.key").exists()
    assert joining.certificate.not_valid_after_utc == NOW + timedelta(days=JOINING_DAYS)
    with pytest.raises(ConfigError, match="without joining"):
        joining.create_joining(now=NOW - timedelta(days=1))
    pin = read_pin(tmp_path)
    write_joining(tmp_path, now=NOW + timedelta(days=1))
    assert read_pin(tmp_path) == read_pin(folder) == pin
    assert Authority.load(folder, JOINING_CERTIFICATE, JOINING_KEY).certificate != joining.certificate
    with pytest.raises(ConfigError, match="the CA ends on"):
        joining.issue(ADDRESS, now=NOW + timedelta(days=1))


@pytest.mark.parametrize("address", ["", "head", "10.0.0", "10.0.0.2:22", "10.0.0.2/../x"])
def test_a_name_gets_no_certificate_and_no_folder(tmp_path: Path, address: str) -> None:
    with pytest.raises(ConfigError, match="not an IP address"):
        write_certificates(tmp_path, "demo", [ADDRESS, address], now=NOW)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ca.crt", "ca.key"]


def test_two_machines_believe_each_other_and_not_a_third_ca(tmp_path: Path) -> None:
    now = datetime.now(UTC)  # OpenSSL asks the machine's clock
    mine = write_certificates(tmp_path / "mine", "demo", ["127.0.0.1", ADDRESS], now=now)
    theirs = write_certificates(tmp_path / "theirs", "demo", [ADDRESS], now=now)
    assert shake(server=mine["127.0.0.1"], client=mine[ADDRESS]) is None
    assert shake(server=mine["127.0.0.1"], client=theirs[ADDRESS], ca=mine[ADDRESS]) is not None
    assert shake(server=theirs[ADDRESS], client=mine[ADDRESS]) is not None


def shake(*, server: Path, client: Path, ca: Path | None = None) -> str | None:
    """A mutual TLS handshake in memory; why the client or server ended it, None when both were content."""
    sides = {}
    for name, folder, purpose in (
        ("server", server, ssl.Purpose.CLIENT_AUTH),
        ("client", client, ssl.Purpose.SERVER_AUTH),
    ):
        context = ssl.create_default_context(
            purpose, cafile=str((ca or folder if name == "client" else folder) / "ca.crt")
        )
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(folder / "node.crt", folder / "node.key")
        sides[name] = context
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        sides["client"].wrap_bio(to_client, to_server, server_hostname="127.0.0.1"),
        sides["server"].wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(6):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError as error:
                return error.reason
    return None
