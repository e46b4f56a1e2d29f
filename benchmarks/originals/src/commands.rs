//! Single calls of the original, to prove that it and wfe-fast work on one database.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use chrono::Utc;
use serde_json::{json, Value};
use wfe_core::models::{
    Event, EventSubscription, ExecutionError, ExecutionPointer, ScheduledCommand, WorkflowInstance,
};

use crate::arguments::Arguments;
use crate::samples::{full_workflow, overlay};
use crate::store::Store;
use crate::Outcome;

type Handled = Pin<Box<dyn Future<Output = wfe_core::Result<()>> + Send>>;

/// Runs the command that the second word names, and returns what it answers.
pub async fn run(store: &Store, arguments: &Arguments) -> Outcome<Value> {
    let provider = &store.provider;
    match arguments.word(1) {
        "init" => answer(provider.ensure_store_exists().await?),
        "fill" => fill(store, arguments).await,
        "list" => list(store).await,
        "create" => answer(provider.create_new_workflow(&new_workflow(arguments)?).await?),
        "persist" => persist(store, arguments).await,
        "get" => match arguments.option("name") {
            Some(name) => answer(provider.get_workflow_instance_by_name(name).await?),
            None => answer(provider.get_workflow_instance(arguments.required("id")?).await?),
        },
        "runnable" => answer(provider.get_runnable_instances(arguments.moment("as-at")?).await?),
        "sequence" => answer(
            provider
                .next_definition_sequence(arguments.required("definition")?)
                .await?,
        ),
        "command" => answer(provider.schedule_command(&new_command(arguments)?).await?),
        "process" => process(store, arguments).await,
        "error" => answer(provider.persist_errors(&[new_error(arguments)?]).await?),
        other => match run_on_events(store, arguments).await? {
            Some(value) => Ok(value),
            None => Err(format!("there is no command {other:?}").into()),
        },
    }
}

/// The commands about events and those who wait for them.
async fn run_on_events(store: &Store, arguments: &Arguments) -> Outcome<Option<Value>> {
    let provider = &store.provider;
    let id = || arguments.required("id");
    let name = || arguments.required("name");
    let key = || arguments.required("key");
    let as_of = || arguments.moment("as-of");
    let value = match arguments.word(1) {
        "event" => answer(provider.create_event(&new_event(arguments)?).await?),
        "get-event" => answer(provider.get_event(id()?).await?),
        "events" => answer(provider.get_events(name()?, key()?, as_of()?).await?),
        "runnable-events" => answer(provider.get_runnable_events(as_of()?).await?),
        "mark-processed" => answer(provider.mark_event_processed(id()?).await?),
        "mark-unprocessed" => answer(provider.mark_event_unprocessed(id()?).await?),
        "subscribe" => answer(
            provider
                .create_event_subscription(&new_subscription(arguments)?)
                .await?,
        ),
        "get-subscription" => answer(provider.get_subscription(id()?).await?),
        "subscriptions" => answer(provider.get_subscriptions(name()?, key()?, as_of()?).await?),
        "first-open" => answer(provider.get_first_open_subscription(name()?, key()?, as_of()?).await?),
        "set-token" => {
            let (token, worker) = (arguments.required("token")?, arguments.required("worker")?);
            let expiry = arguments.moment("expiry")?;
            answer(provider.set_subscription_token(id()?, token, worker, expiry).await?)
        }
        "clear-token" => answer(
            provider
                .clear_subscription_token(id()?, arguments.required("token")?)
                .await?,
        ),
        "terminate" => answer(provider.terminate_subscription(id()?).await?),
        _ => return Ok(None),
    };
    value.map(Some)
}

fn answer(value: impl serde::Serialize) -> Outcome<Value> {
    Ok(serde_json::to_value(value)?)
}

/// A workflow with every field filled, over which the fields of the command line are laid. Pointers that are given whole
/// or in part are laid over new ones.
fn new_workflow(arguments: &Arguments) -> Outcome<WorkflowInstance> {
    let mut fields = arguments.fields()?;
    if let Some(Value::Array(pointers)) = fields.get_mut("execution_pointers") {
        for (number, pointer) in pointers.iter_mut().enumerate() {
            let given = serde_json::from_value(pointer.take())?;
            *pointer = answer(overlay(&ExecutionPointer::new(number), given)?)?;
        }
    }
    overlay(&full_workflow(arguments.number("pointers", 10)?), fields)
}

fn new_event(arguments: &Arguments) -> Outcome<Event> {
    let event = Event::new("paid", "key 5", json!({"amount": 12.5}));
    overlay(&event, arguments.fields()?)
}

fn new_subscription(arguments: &Arguments) -> Outcome<EventSubscription> {
    let subscription = EventSubscription::new("none", 5, "none/5", "paid", "key 5", Utc::now());
    overlay(&subscription, arguments.fields()?)
}

fn new_command(arguments: &Arguments) -> Outcome<ScheduledCommand> {
    overlay(&ScheduledCommand::process_workflow("none", 0), arguments.fields()?)
}

fn new_error(arguments: &Arguments) -> Outcome<ExecutionError> {
    overlay(&ExecutionError::new("none", "none/0", "it failed"), arguments.fields()?)
}

/// Loads a workflow (or takes it whole from `--json`), changes fields of it or of one of its pointers, and stores it.
async fn persist(store: &Store, arguments: &Arguments) -> Outcome<Value> {
    let provider = &store.provider;
    let mut workflow = match arguments.option("id") {
        None => new_workflow(arguments)?,
        Some(id) => provider.get_workflow_instance(id).await?,
    };
    if arguments.option("id").is_some() {
        let fields = arguments.fields()?;
        match arguments.option("pointer") {
            None => workflow = overlay(&workflow, fields)?,
            Some(id) => {
                let mut pointers = workflow.execution_pointers.iter_mut();
                let pointer = pointers
                    .find(|pointer| pointer.id == id)
                    .ok_or(format!("there is no pointer {id:?}"))?;
                *pointer = overlay(pointer, fields)?;
            }
        }
    }
    match arguments.option("subscriptions") {
        None => provider.persist_workflow(&workflow).await?,
        Some(text) => {
            let given: Vec<EventSubscription> = serde_json::from_str(text)?;
            provider.persist_workflow_with_subscriptions(&workflow, &given).await?;
        }
    }
    answer(workflow)
}

/// Handles every due command; answers with the commands.
async fn process(store: &Store, arguments: &Arguments) -> Outcome<Value> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&seen);
    let handler = move |command: ScheduledCommand| -> Handled {
        let keep = Arc::clone(&keep);
        Box::pin(async move {
            keep.lock().expect("no handler panics").push(command);
            Ok(())
        })
    };
    let as_of = arguments.moment("as-of")?;
    store.provider.process_commands(as_of, &handler).await?;
    let commands = std::mem::take(&mut *seen.lock().map_err(|error| error.to_string())?);
    answer(commands)
}

/// Something of every kind: two workflows, a sequence, events, subscriptions with and without a token, commands, errors.
async fn fill(store: &Store, arguments: &Arguments) -> Outcome<Value> {
    let provider = &store.provider;
    provider.ensure_store_exists().await?;
    let first = full_workflow(arguments.number("pointers", 10)?);
    provider.create_new_workflow(&first).await?;
    let mut second = full_workflow(1);
    provider.create_new_workflow(&second).await?;
    second.complete_time = Some(Utc::now());
    let mut waiting = EventSubscription::new(&first.id, 5, format!("{}/5", first.id), "paid", "key 5", Utc::now());
    waiting.subscription_data = Some(json!({"for": "payment"}));
    let later = EventSubscription::new(&second.id, 0, format!("{}/0", second.id), "paid", "key 5", Utc::now());
    provider
        .persist_workflow_with_subscriptions(&second, &[waiting, later.clone()])
        .await?;
    provider
        .set_subscription_token(&later.id, "token", "worker", Utc::now())
        .await?;
    for number in 1..=3 {
        provider.next_definition_sequence("order").await?;
        let event = Event::new("paid", format!("key {number}"), json!({"number": number}));
        provider.create_event(&event).await?;
        if number == 1 {
            provider.mark_event_processed(&event.id).await?;
        }
    }
    provider.create_event(&Event::new("empty", "", Value::Null)).await?;
    provider
        .schedule_command(&ScheduledCommand::process_workflow(&first.id, 5))
        .await?;
    provider
        .schedule_command(&ScheduledCommand::process_event("event", 4_000_000_000_000))
        .await?;
    provider
        .persist_errors(&[ExecutionError::new(
            &first.id,
            &first.execution_pointers[0].id,
            "it failed",
        )])
        .await?;
    list(store).await
}

/// Everything in the store: read by the original's methods where it has one, by plain SQL where it has none.
async fn list(store: &Store) -> Outcome<Value> {
    let provider = &store.provider;
    let ids = |table| store.table(table);
    let workflow_ids = store
        .texts(&format!("SELECT id FROM {} ORDER BY id", ids("workflows")))
        .await?;
    let mut events = Vec::new();
    for id in store
        .texts(&format!("SELECT id FROM {} ORDER BY id", ids("events")))
        .await?
    {
        events.push(provider.get_event(&id).await?);
    }
    let mut subscriptions = Vec::new();
    let statement = format!("SELECT id FROM {} ORDER BY id", ids("event_subscriptions"));
    for id in store.texts(&statement).await? {
        subscriptions.push(provider.get_subscription(&id).await?);
    }
    Ok(json!({
        "workflows": provider.get_workflow_instances(&workflow_ids).await?,
        "events": events,
        "subscriptions": subscriptions,
        "commands": store.rows("scheduled_commands", &["command_name", "data", "execute_time"]).await?,
        "errors": store.rows("execution_errors", &["error_time", "workflow_id", "execution_pointer_id", "message"]).await?,
    }))
}
