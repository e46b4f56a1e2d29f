//! What the wfe originals need for a call, each on a store of its own that goes when the run ends.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use serde_json::{json, Value};
use wfe_core::models::WorkflowInstance;

use crate::arguments::Arguments;
use crate::measure::Times;
use crate::samples::{done_pointer, done_workflow};
use crate::store::Store;
use crate::Outcome;

const COLUMNS: &str = "root_workflow_id, definition_id, version, description, reference";
const POINTER_COLUMNS: &str = "step_id, active, status, sleep_until, persistence_data, start_time, end_time, \
    event_name, event_key, event_published, event_data, step_name, retry_count, children, context_item, \
    predecessor_id, outcome, scope, extension_attributes";
const FINISHED_POINTERS: usize = 10;

/// How large, how often, and on how many threads.
#[derive(Clone, Copy)]
struct Size {
    pointers: usize,
    count: usize,
    threads: usize,
}

/// Makes a store, fills it as the options say, measures, removes it, and returns the report.
pub async fn run(arguments: &Arguments) -> Outcome<Value> {
    let unique = format!("originals_bench_{}", std::process::id());
    if arguments.word(0) == "postgres" {
        let store = Store::postgres(arguments.required("dsn")?, &unique, "").await?;
        let report = filled_and_measured(Arc::new(store), arguments).await;
        let store = Store::postgres(arguments.required("dsn")?, &unique, "").await?;
        store
            .execute(&format!("DROP SCHEMA IF EXISTS \"{unique}\" CASCADE"))
            .await?;
        return report;
    }
    let folder = arguments
        .option("folder")
        .map_or_else(std::env::temp_dir, PathBuf::from)
        .join(unique);
    std::fs::create_dir(&folder)?;
    let path = folder.join("store.db").to_string_lossy().into_owned();
    let report = match Store::sqlite(&path).await {
        Ok(store) => filled_and_measured(Arc::new(store), arguments).await,
        Err(error) => Err(error),
    };
    std::fs::remove_dir_all(&folder)?;
    report
}

async fn filled_and_measured(store: Arc<Store>, arguments: &Arguments) -> Outcome<Value> {
    let size = Size {
        pointers: arguments.number("pointers", 10)?,
        count: arguments.number("count", 1000)?,
        threads: arguments.number("threads", 1)?,
    };
    let finished: usize = arguments.number("finished", 0)?;
    let sleeping: usize = arguments.number("sleeping", 0)?;
    let due: usize = arguments.number("due", 100)?;
    store.provider.ensure_store_exists().await?;
    fill(&store, "finished", finished, FINISHED_POINTERS, "'Complete'", "NULL").await?;
    let far = Utc::now().timestamp_millis() + 3_600_000;
    fill(&store, "sleeping", sleeping, 0, "'Runnable'", &format!("{far} + n")).await?;
    let name = arguments.word(2);
    if name == "runnable" {
        fill(&store, "due", due, 0, "'Runnable'", "n").await?;
    }
    if store.is_postgres() {
        // As the server's own housekeeping leaves the tables after a while.
        for table in ["workflows", "execution_pointers"] {
            store
                .execute(&format!("VACUUM (ANALYZE) {}", store.table(table)))
                .await?;
        }
    }
    let times = match name {
        "persist" => in_threads(&store, size, persist).await?,
        "create" => in_threads(&store, size, create).await?,
        "get" => in_threads(&store, size, get).await?,
        "runnable" => runnable(&store, size.count, due).await?,
        "grow" => grow(&store, size.pointers).await?,
        other => return Err(format!("{other:?}: persist, grow, create, get or runnable was expected").into()),
    };
    let mut setting =
        json!({"database": arguments.word(0), "bench": name, "finished": finished, "threads": size.threads});
    if name == "runnable" {
        setting["due"] = json!(due);
        setting["sleeping"] = json!(sleeping);
    } else {
        setting["pointers"] = json!(size.pointers);
    }
    Ok(times.report(setting))
}

/// Stores `count` workflows as copies of one that the original wrote: by SQL, since 100,000 single calls take minutes.
async fn fill(
    store: &Store,
    kind: &str,
    count: usize,
    pointers: usize,
    status: &str,
    next_execution: &str,
) -> Outcome<()> {
    if count == 0 {
        return Ok(());
    }
    let template = store.provider.create_new_workflow(&done_workflow(pointers)).await?;
    let series = if store.is_postgres() {
        format!("generate_series(1, {count}) AS series(n)")
    } else {
        format!("(WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {count}) SELECT n FROM s)")
    };
    let (workflows, all_pointers) = (store.table("workflows"), store.table("execution_pointers"));
    store
        .execute(&format!(
            "INSERT INTO {workflows} (id, name, {COLUMNS}, status, data, next_execution, create_time, complete_time)
             SELECT '{kind}-' || n, '{kind}-' || n, {COLUMNS}, {status}, data, {next_execution}, create_time, create_time
             FROM {workflows}, {series} WHERE id = '{template}'"
        ))
        .await?;
    store
        .execute(&format!(
            "INSERT INTO {all_pointers} (id, workflow_id, {POINTER_COLUMNS})
             SELECT '{kind}-' || n || '/' || step_id, '{kind}-' || n, {POINTER_COLUMNS}
             FROM {all_pointers}, {series} WHERE workflow_id = '{template}'"
        ))
        .await?;
    store
        .execute(&format!("DELETE FROM {all_pointers} WHERE workflow_id = '{template}'"))
        .await?;
    store
        .execute(&format!("DELETE FROM {workflows} WHERE id = '{template}'"))
        .await
}

/// The same work on every thread, each with a workflow of its own.
async fn in_threads<Work, Running>(store: &Arc<Store>, size: Size, work: Work) -> Outcome<Times>
where
    Work: Fn(Arc<Store>, WorkflowInstance, Size) -> Running,
    Running: std::future::Future<Output = Outcome<Vec<Duration>>> + Send + 'static,
{
    let mut ready = Vec::new();
    for _ in 0..size.threads {
        let workflow = done_workflow(size.pointers);
        store.provider.create_new_workflow(&workflow).await?;
        ready.push(work(Arc::clone(store), workflow, size));
    }
    let begin = Instant::now();
    let tasks: Vec<_> = ready.into_iter().map(tokio::spawn).collect();
    let mut calls = Vec::new();
    for task in tasks {
        calls.extend(task.await??);
    }
    Ok(Times::since(calls, begin))
}

/// One pointer of the workflow is another one each time.
async fn persist(store: Arc<Store>, mut workflow: WorkflowInstance, size: Size) -> Outcome<Vec<Duration>> {
    let mut calls = Vec::with_capacity(size.count);
    for number in 0..size.count {
        workflow.next_execution = Some(number as i64);
        if let Some(pointer) = workflow.execution_pointers.get_mut(size.pointers / 2) {
            pointer.retry_count = number as u32;
        }
        let begin = Instant::now();
        store.provider.persist_workflow(&workflow).await?;
        calls.push(begin.elapsed());
    }
    Ok(calls)
}

async fn create(store: Arc<Store>, _: WorkflowInstance, size: Size) -> Outcome<Vec<Duration>> {
    let mut calls = Vec::with_capacity(size.count);
    for _ in 0..size.count {
        let workflow = done_workflow(size.pointers);
        let begin = Instant::now();
        store.provider.create_new_workflow(&workflow).await?;
        calls.push(begin.elapsed());
    }
    Ok(calls)
}

async fn get(store: Arc<Store>, workflow: WorkflowInstance, size: Size) -> Outcome<Vec<Duration>> {
    let mut calls = Vec::with_capacity(size.count);
    for _ in 0..size.count {
        let begin = Instant::now();
        let read = store.provider.get_workflow_instance(&workflow.id).await?;
        calls.push(begin.elapsed());
        if read.execution_pointers.len() != size.pointers {
            return Err("a workflow came back without its pointers".into());
        }
    }
    Ok(calls)
}

async fn runnable(store: &Store, count: usize, due: usize) -> Outcome<Times> {
    let mut calls = Vec::with_capacity(count);
    for _ in 0..count {
        let begin = Instant::now();
        let found = store.provider.get_runnable_instances(Utc::now()).await?;
        calls.push(begin.elapsed());
        if found.len() != due {
            return Err(format!("{} workflows are due, not {due}", found.len()).into());
        }
    }
    Ok(Times::of_calls(calls))
}

/// The life of one workflow: a pointer more with each persist.
async fn grow(store: &Store, pointers: usize) -> Outcome<Times> {
    let mut workflow = done_workflow(0);
    store.provider.create_new_workflow(&workflow).await?;
    let mut calls = Vec::with_capacity(pointers);
    for number in 0..pointers {
        workflow.execution_pointers.push(done_pointer(number));
        let begin = Instant::now();
        store.provider.persist_workflow(&workflow).await?;
        calls.push(begin.elapsed());
    }
    Ok(Times::of_calls(calls))
}
