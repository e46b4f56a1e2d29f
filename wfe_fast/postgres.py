"""All that one needs for PostgreSQL."""

from wfe_fast.checkpoints.postgres import PostgresCheckpointStore, checkpoint_schema_script
from wfe_fast.persistence.postgres import PostgresPersistenceProvider, schema_script
from wfe_fast.state.postgres import PostgresBackend, state_schema_script

__all__ = [
    "PostgresBackend",
    "PostgresCheckpointStore",
    "PostgresPersistenceProvider",
    "checkpoint_schema_script",
    "schema_script",
    "state_schema_script",
]
