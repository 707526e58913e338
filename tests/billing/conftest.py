from collections.abc import Iterator

import pytest

from billing.journal_place import PostgresPlace


@pytest.fixture(scope="session")
def postgres_server() -> Iterator["object"]:
    pytest.importorskip("psycopg", reason="the extra `postgres` is not installed")
    pytest.importorskip("sqlalchemy", reason="the extra `postgres` is not installed")
    from tests.billing.server import Server, find_programs  # noqa: PLC0415  imports psycopg

    programs = find_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    server = Server(programs)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def postgres(postgres_server) -> PostgresPlace:
    """An empty database."""
    return PostgresPlace(url=postgres_server.new_database(), password_file=postgres_server.password_file)
