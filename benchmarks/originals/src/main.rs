//! Drives the Rust originals from the command line. Prints one JSON object (or value) per call; see README.md.

mod arguments;
mod bench;
mod commands;
mod drain;
mod measure;
mod samples;
mod state;
mod store;

use std::io::BufRead;
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::{json, Value};

use arguments::Arguments;
use store::Store;

pub type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[tokio::main]
async fn main() -> ExitCode {
    match Box::pin(run()).await {
        Ok(value) => {
            println!("{value}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{}", json!({ "error": error.to_string() }));
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Outcome<Value> {
    let arguments = Arguments::parse(std::env::args().skip(1))?;
    match (arguments.word(0), arguments.word(1)) {
        ("state", "bench") => state::run(&arguments).await,
        ("state", "drain") => drain::run(&arguments).await,
        (_, "bench") => bench::run(&arguments).await,
        (_, "session") => session(Arc::new(Store::open(&arguments).await?)).await,
        _ => commands::run(&Store::open(&arguments).await?, &arguments).await,
    }
}

/// Many commands on one provider and its open connections: a JSON array of words per line, and one answer line for each. The
/// original panics on rows that it does not understand; that is an answer, too.
async fn session(store: Arc<Store>) -> Outcome<Value> {
    let mut count = 0;
    for line in std::io::stdin().lock().lines() {
        let mut words: Vec<String> = serde_json::from_str(&line?)?;
        words.insert(0, String::new());
        let store = Arc::clone(&store);
        let task = tokio::spawn(async move { commands::run(&store, &Arguments::parse(words)?).await });
        let answer = match task.await {
            Ok(Ok(value)) => json!({ "ok": value }),
            Ok(Err(error)) => json!({ "error": error.to_string() }),
            Err(error) => json!({ "error": error.to_string(), "panic": error.is_panic() }),
        };
        println!("{answer}");
        count += 1;
    }
    Ok(json!({ "commands": count }))
}
