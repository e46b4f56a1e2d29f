"""All that one needs for PostgreSQL."""

from wfe_fast.persistence.postgres import PostgresPersistenceProvider, schema_script

__all__ = ["PostgresPersistenceProvider", "schema_script"]
