"""All that one needs for SQLite."""

from wfe_fast.checkpoints.sqlite import SqliteCheckpointStore
from wfe_fast.persistence.sqlite import SqlitePersistenceProvider

__all__ = ["SqliteCheckpointStore", "SqlitePersistenceProvider"]
