"""All that one needs for PostgreSQL."""

from wfe_fast.checkpoints.postgres import PostgresCheckpointStore, checkpoint_schema_script
from wfe_fast.persistence.postgres import PostgresPersistenceProvider, schema_script

__all__ = ["PostgresCheckpointStore", "PostgresPersistenceProvider", "checkpoint_schema_script", "schema_script"]
