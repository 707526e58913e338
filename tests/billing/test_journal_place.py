from pathlib import Path

import pytest

from billing.errors import JournalPlaceError
from billing.journal_place import PostgresPlace


@pytest.mark.parametrize(
    ("url", "why"),
    [
        pytest.param("mysql://ledger@host/books", "postgresql://", id="another-database"),
        pytest.param("postgresql://ledger@host", "postgresql://", id="no-database"),
        pytest.param("postgresql://ledger:hunter2@host/books", "password", id="password-before-the-host"),
        pytest.param("postgresql://ledger@host/books?password=hunter2", "password", id="password-in-the-query"),
        pytest.param("postgresql://[host/books", "not a URL", id="no-url"),
    ],
)
def test_an_address_that_is_none_or_holds_a_password_is_refused(url: str, why: str) -> None:
    with pytest.raises(JournalPlaceError, match=why) as told:
        PostgresPlace(url=url)
    assert "hunter2" not in str(told.value)


def test_a_password_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("hunter2\n")
    place = PostgresPlace(url="postgresql://ledger@host/books", password_file=file)
    file.chmod(0o644)
    with pytest.raises(JournalPlaceError, match="chmod 600"):
        place.password()
    file.chmod(0o600)
    assert place.password() == "hunter2"
    file.unlink()
    with pytest.raises(JournalPlaceError, match="No such file"):
        place.password()
