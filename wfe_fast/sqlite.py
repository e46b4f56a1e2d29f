"""All that one needs for SQLite."""

from wfe_fast.checkpoints.sqlite import SqliteCheckpointStore
from wfe_fast.persistence.sqlite import SqlitePersistenceProvider
from wfe_fast.state.sqlite import SqliteBackend

__all__ = ["SqliteBackend", "SqliteCheckpointStore", "SqlitePersistenceProvider"]
