//! An original's provider beside a pool of plain SQL on the same database: for what the provider has no method for.

use serde_json::Value;
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::sqlite::SqlitePool;
use wfe_core::traits::PersistenceProvider;
use wfe_postgres::{PostgresOptions, PostgresPersistenceProvider};
use wfe_sqlite::SqlitePersistenceProvider;

use crate::arguments::Arguments;
use crate::Outcome;

enum Plain {
    Postgres(PgPool),
    Sqlite(SqlitePool),
}

pub struct Store {
    pub provider: Box<dyn PersistenceProvider>,
    plain: Plain,
    qualifier: String,
}

impl Store {
    /// The database that the first word and the options name. Creates nothing on PostgreSQL, the tables on SQLite.
    pub async fn open(arguments: &Arguments) -> Outcome<Self> {
        match arguments.word(0) {
            "postgres" => {
                let schema = arguments.option("schema").unwrap_or("wfc");
                let prefix = arguments.option("prefix").unwrap_or("");
                Self::postgres(arguments.required("dsn")?, schema, prefix).await
            }
            "sqlite" => Self::sqlite(arguments.required("path")?).await,
            other => Err(format!("{other:?}: postgres or sqlite was expected").into()),
        }
    }

    pub async fn postgres(dsn: &str, schema: &str, prefix: &str) -> Outcome<Self> {
        // As many connections as the original takes where it makes the pool itself.
        let pool = PgPoolOptions::new().max_connections(10).connect(dsn).await?;
        let options = PostgresOptions {
            schema: schema.to_string(),
            table_prefix: prefix.to_string(),
        };
        let provider = PostgresPersistenceProvider::from_pool_with(pool.clone(), options)?;
        Ok(Self {
            provider: Box::new(provider),
            plain: Plain::Postgres(pool),
            qualifier: format!("\"{schema}\".\"{prefix}"),
        })
    }

    pub async fn sqlite(path: &str) -> Outcome<Self> {
        let url = format!("sqlite://{path}");
        let provider = SqlitePersistenceProvider::new(&url)
            .await
            .map_err(|error| error.to_string())?;
        Ok(Self {
            provider: Box::new(provider),
            plain: Plain::Sqlite(SqlitePool::connect_lazy(&url)?),
            qualifier: "\"".to_string(),
        })
    }

    pub fn is_postgres(&self) -> bool {
        matches!(self.plain, Plain::Postgres(_))
    }

    /// A table's name as it stands in a statement.
    pub fn table(&self, name: &str) -> String {
        format!("{}{name}\"", self.qualifier)
    }

    pub async fn execute(&self, statement: &str) -> Outcome<()> {
        match &self.plain {
            Plain::Postgres(pool) => sqlx::query(statement).execute(pool).await.map(|_| ())?,
            Plain::Sqlite(pool) => sqlx::query(statement).execute(pool).await.map(|_| ())?,
        }
        Ok(())
    }

    /// The texts of the first column.
    pub async fn texts(&self, statement: &str) -> Outcome<Vec<String>> {
        Ok(match &self.plain {
            Plain::Postgres(pool) => sqlx::query_scalar(statement).fetch_all(pool).await?,
            Plain::Sqlite(pool) => sqlx::query_scalar(statement).fetch_all(pool).await?,
        })
    }

    /// Rows as objects with these columns, in the order of the table's serial id.
    pub async fn rows(&self, table: &str, columns: &[&str]) -> Outcome<Vec<Value>> {
        let function = if self.is_postgres() {
            "jsonb_build_object"
        } else {
            "json_object"
        };
        let pairs: Vec<String> = columns.iter().map(|column| format!("'{column}', {column}")).collect();
        let statement = format!(
            "SELECT CAST({function}({}) AS text) FROM {} ORDER BY id",
            pairs.join(", "),
            self.table(table)
        );
        let texts = self.texts(&statement).await?;
        Ok(texts
            .iter()
            .map(|text| serde_json::from_str(text))
            .collect::<Result<_, _>>()?)
    }
}
