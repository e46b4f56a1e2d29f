//! What jamjet-state's SQLite backend needs for a call.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use chrono::Utc;
use jamjet_core::workflow::{ExecutionId, WorkflowExecution, WorkflowStatus};
use jamjet_state::{materialize, Event, EventKind, SqliteBackend, StateBackend, WorkItem};
use serde_json::{json, Value};
use uuid::Uuid;

use crate::arguments::Arguments;
use crate::drain;
use crate::measure::Times;
use crate::Outcome;

pub const QUEUE: &str = "tools";

pub async fn run(arguments: &Arguments) -> Outcome<Value> {
    let unique = format!("originals_bench_{}", std::process::id());
    let folder = arguments
        .option("folder")
        .map_or_else(std::env::temp_dir, PathBuf::from)
        .join(unique);
    std::fs::create_dir(&folder)?;
    let url = format!("sqlite://{}", folder.join("state.db").display());
    let report = measured(&url, arguments).await;
    std::fs::remove_dir_all(&folder)?;
    report
}

async fn measured(url: &str, arguments: &Arguments) -> Outcome<Value> {
    let backend = SqliteBackend::open(url).await?;
    let execution = ExecutionId::new();
    backend.create_execution(new_execution(&execution)).await?;
    let count: usize = arguments.number("count", 500)?;
    let pending: usize = arguments.number("pending", 100)?;
    let mut setting = json!({"database": "state", "bench": arguments.word(2)});
    let times = match arguments.word(2) {
        "claim" => {
            setting["pending"] = json!(pending);
            fill(&backend, &execution, pending).await?;
            claim(&backend, &execution, count).await?
        }
        "append" => append(&backend, &execution, count).await?,
        "materialize" => {
            let events: i64 = arguments.number("events", 10_000)?;
            setting["events"] = json!(events);
            fill_log(&backend, &execution, events).await?;
            fold(&backend, &execution, events, count).await?
        }
        "drain" => {
            let processes: usize = arguments.number("processes", 8)?;
            setting["processes"] = json!(processes);
            fill(&backend, &execution, count / processes * processes).await?;
            drain::race(url, processes, count / processes).await?
        }
        other => return Err(format!("{other:?}: claim, append, materialize or drain was expected").into()),
    };
    Ok(times.report(setting))
}

fn new_execution(id: &ExecutionId) -> WorkflowExecution {
    let now = Utc::now();
    WorkflowExecution {
        execution_id: id.clone(),
        workflow_id: "order".into(),
        workflow_version: "1.0.0".into(),
        status: WorkflowStatus::Running,
        initial_input: json!({}),
        current_state: json!({}),
        started_at: now,
        updated_at: now,
        completed_at: None,
        session_type: None,
        parent_execution_id: None,
        segment_number: 0,
    }
}

fn new_item(execution: &ExecutionId) -> WorkItem {
    WorkItem {
        id: Uuid::new_v4(),
        execution_id: execution.clone(),
        node_id: "charge".into(),
        queue_type: QUEUE.into(),
        payload: json!({"order": "A-17", "amount": 25.0}),
        attempt: 0,
        max_attempts: 3,
        created_at: Utc::now(),
        lease_expires_at: None,
        worker_id: None,
        lease_fence: 0,
        tenant_id: "default".into(),
    }
}

/// One item as the backend writes it, and copies of it by SQL, each a millisecond older than the one before.
async fn fill(backend: &SqliteBackend, execution: &ExecutionId, pending: usize) -> Outcome<()> {
    if pending == 0 {
        return Ok(());
    }
    let template = backend.enqueue_work_item(new_item(execution)).await?.to_string();
    let pool = backend.pool();
    let copies = "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < ?)
        INSERT INTO work_items
            (id, execution_id, node_id, queue_type, payload_json, attempt, max_attempts, status, created_at, tenant_id)
        SELECT printf('%08x-0000-4000-8000-%012x', n, n), execution_id, node_id, queue_type, payload_json, attempt,
            max_attempts, status, strftime('%Y-%m-%dT%H:%M:%f', 'now', printf('-%d.%03d seconds', n / 1000, n % 1000))
            || '000000+00:00', tenant_id
        FROM work_items, s WHERE id = ?";
    sqlx::query(copies)
        .bind(pending as i64 - 1)
        .bind(template)
        .execute(&pool)
        .await?;
    Ok(())
}

/// A claim and a completion, and an item enqueued after each (not timed), so that as many are pending all the time.
async fn claim(backend: &SqliteBackend, execution: &ExecutionId, count: usize) -> Outcome<Times> {
    let mut calls: Vec<Duration> = Vec::with_capacity(count);
    for _ in 0..count {
        let begin = Instant::now();
        let item = backend
            .claim_work_item("worker", &[QUEUE])
            .await?
            .ok_or("nothing is pending")?;
        if !backend.complete_work_item_fenced(item.id, item.lease_fence).await? {
            return Err("a claimed item could not be completed".into());
        }
        calls.push(begin.elapsed());
        backend.enqueue_work_item(new_item(execution)).await?;
    }
    Ok(Times::of_calls(calls))
}

async fn append(backend: &SqliteBackend, execution: &ExecutionId, count: usize) -> Outcome<Times> {
    let mut calls: Vec<Duration> = Vec::with_capacity(count);
    for number in 0..count {
        let kind = EventKind::NodeScheduled {
            node_id: format!("node {number}"),
            queue_type: QUEUE.into(),
        };
        let event = Event::new(execution.clone(), 0, kind);
        let begin = Instant::now();
        backend.append_event(event).await?;
        calls.push(begin.elapsed());
    }
    Ok(Times::of_calls(calls))
}

/// Events as the backend writes them, in one transaction: of 50 nodes, one after the other, each is scheduled, starts and ends well.
async fn fill_log(backend: &SqliteBackend, execution: &ExecutionId, events: i64) -> Outcome<()> {
    let pool = backend.pool();
    let mut transaction = pool.begin().await?;
    for sequence in 1..=events {
        let number = (sequence - 1) / 3 % 50;
        let node_id = format!("node {number}");
        let kind = match (sequence - 1) % 3 {
            0 => EventKind::NodeScheduled {
                node_id,
                queue_type: QUEUE.into(),
            },
            1 => serde_json::from_value(
                json!({"type": "node_started", "node_id": node_id, "worker_id": "w", "attempt": 0}),
            )?,
            _ => {
                let patch = json!({format!("result {number}"): sequence});
                serde_json::from_value(json!({"type": "node_completed", "node_id": node_id, "output": sequence,
                    "state_patch": patch, "duration_ms": 5}))?
            }
        };
        sqlx::query("INSERT INTO events (id, execution_id, sequence, kind_json, created_at) VALUES (?, ?, ?, ?, ?)")
            .bind(Uuid::new_v4().to_string())
            .bind(execution.0.to_string())
            .bind(sequence)
            .bind(serde_json::to_string(&kind)?)
            .bind(Utc::now().to_rfc3339())
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await?;
    Ok(())
}

async fn fold(backend: &SqliteBackend, execution: &ExecutionId, events: i64, count: usize) -> Outcome<Times> {
    let mut calls: Vec<Duration> = Vec::with_capacity(count);
    for _ in 0..count {
        let begin = Instant::now();
        let state = materialize(backend, execution).await?;
        calls.push(begin.elapsed());
        if state.last_sequence != events {
            return Err(format!("the log ends with {}", state.last_sequence).into());
        }
    }
    Ok(Times::of_calls(calls))
}
