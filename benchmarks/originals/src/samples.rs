//! Models to write: one with every field filled, and one as a worker has it in the middle of its life.

use std::collections::HashMap;

use chrono::{DateTime, TimeZone, Utc};
use serde::de::DeserializeOwned;
use serde::Serialize;
use serde_json::{json, Map, Value};
use wfe_core::models::{ExecutionPointer, PointerStatus, WorkflowInstance};

use crate::Outcome;

const STATUSES: [PointerStatus; 10] = [
    PointerStatus::Pending,
    PointerStatus::Running,
    PointerStatus::Complete,
    PointerStatus::Skipped,
    PointerStatus::Sleeping,
    PointerStatus::WaitingForEvent,
    PointerStatus::Failed,
    PointerStatus::Compensated,
    PointerStatus::Cancelled,
    PointerStatus::PendingPredecessor,
];

/// The model with some of its fields replaced.
pub fn overlay<T: Serialize + DeserializeOwned>(model: &T, fields: Map<String, Value>) -> Outcome<T> {
    let mut whole = serde_json::to_value(model)?;
    for (field, value) in fields {
        if whole.get(&field).is_none() && field != "root_workflow_id" {
            return Err(format!("there is no field {field:?}").into());
        }
        whole[field] = value;
    }
    Ok(serde_json::from_value(whole)?)
}

/// A moment with microseconds, the same in every run.
fn moment(second: i64) -> DateTime<Utc> {
    Utc.timestamp_nanos((1_700_000_000 + second) * 1_000_000_000 + 123_456_000)
}

/// Every field filled, every pointer status in turn; JSON null, nested values and other scripts included.
pub fn full_workflow(pointers: usize) -> WorkflowInstance {
    let mut workflow = WorkflowInstance::new(
        "order",
        3,
        json!({"customer": "Zoë", "items": [1, 2.5, null, {"deep": [true]}], "note": "日本"}),
    );
    workflow.name = format!("order-{}", workflow.id);
    workflow.root_workflow_id = Some("root".into());
    workflow.description = Some("every field is filled".into());
    workflow.reference = Some("ref-1".into());
    workflow.next_execution = Some(1_700_000_000_123);
    workflow.create_time = moment(0);
    workflow.execution_pointers = (0..pointers).map(|number| full_pointer(&workflow.id, number)).collect();
    workflow
}

fn full_pointer(workflow_id: &str, number: usize) -> ExecutionPointer {
    let second = number as i64;
    ExecutionPointer {
        id: format!("{workflow_id}/{number}"),
        step_id: number,
        active: [true, false][number % 2],
        status: STATUSES[number % STATUSES.len()],
        sleep_until: Some(moment(second)),
        persistence_data: Some(json!({"number": number, "list": [1, "two", null]})),
        start_time: Some(moment(second + 1)),
        end_time: Some(moment(second + 2)),
        event_name: Some("paid".into()),
        event_key: Some(format!("key {number}")),
        event_published: [true, false, false][number % 3],
        event_data: Some(json!({"amount": 12.5})),
        step_name: Some(format!("step {number}")),
        retry_count: number as u32,
        children: vec![format!("{workflow_id}/{}", number + 1)],
        context_item: Some(Value::Null),
        predecessor_id: Some(format!("{workflow_id}/before")),
        outcome: Some(json!("done")),
        scope: vec!["outer".into(), "inner".into()],
        extension_attributes: HashMap::from([("one".into(), json!(1)), ("two".into(), json!(["x", null]))]),
    }
}

/// Steps that are done: what is measured.
pub fn done_workflow(pointers: usize) -> WorkflowInstance {
    let mut workflow = WorkflowInstance::new(
        "order",
        1,
        json!({"customer": "A-17", "items": ["tea", "cup"], "total": 25.0}),
    );
    workflow.name.clone_from(&workflow.id);
    workflow.execution_pointers = (0..pointers).map(done_pointer).collect();
    workflow
}

pub fn done_pointer(number: usize) -> ExecutionPointer {
    let mut pointer = ExecutionPointer::new(number);
    pointer.step_name = Some(format!("step {number}"));
    pointer.status = PointerStatus::Complete;
    pointer.active = false;
    pointer.start_time = Some(Utc::now());
    pointer.end_time = Some(Utc::now());
    pointer.outcome = Some(json!({"n": number}));
    pointer
}
