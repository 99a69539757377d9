"""Studies whose file need not survive a power failure: SQLite waits for the disk after every epoch of every trial."""

import pytest
import sqlalchemy


@pytest.fixture(autouse=True, scope="session")
def hurried_sqlite():
    def hurry(connection, record):
        connection.execute("PRAGMA synchronous = OFF")

    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "connect", hurry)
    yield
    sqlalchemy.event.remove(sqlalchemy.engine.Engine, "connect", hurry)
