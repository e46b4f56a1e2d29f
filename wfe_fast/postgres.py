"""All that one needs for PostgreSQL."""

from wfe_fast.persistence.postgres import PostgresPersistenceProvider, schema_script
from wfe_fast.state.postgres import PostgresBackend, state_schema_script

__all__ = ["PostgresBackend", "PostgresPersistenceProvider", "schema_script", "state_schema_script"]
