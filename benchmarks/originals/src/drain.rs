//! Processes of this program that empty one queue, all at once.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use jamjet_state::{SqliteBackend, StateBackend};
use serde_json::{json, Value};

use crate::arguments::Arguments;
use crate::measure::Times;
use crate::state::QUEUE;
use crate::Outcome;

/// Start the processes, let them go together when each has opened the database, and wait for all: their calls, and the time of the slowest.
pub async fn race(url: &str, processes: usize, each: usize) -> Outcome<Times> {
    let mut started: Vec<Child> = Vec::with_capacity(processes);
    for number in 0..processes {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["state", "drain", "--url", url, "--count", &each.to_string()]);
        command.args(["--worker", &format!("worker {number}")]);
        started.push(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?);
    }
    let mut answers = Vec::with_capacity(processes);
    for child in &mut started {
        let mut answer = BufReader::new(child.stdout.take().ok_or("no answer can come")?);
        read(&mut answer)?;
        answers.push(answer);
    }
    for child in &mut started {
        writeln!(child.stdin.take().ok_or("nothing can be told")?)?;
    }
    let mut calls = Vec::with_capacity(processes * each);
    let mut slowest = Duration::ZERO;
    for (child, answer) in started.iter_mut().zip(&mut answers) {
        let taken: Vec<f64> = serde_json::from_str(&read(answer)?)?;
        child.wait()?;
        let taken: Vec<Duration> = taken.into_iter().map(Duration::from_secs_f64).collect();
        let (whole, single) = taken.split_last().ok_or("nothing was taken")?;
        slowest = slowest.max(*whole);
        calls.extend_from_slice(single);
    }
    Ok(Times::of_all(calls, slowest))
}

/// How many errors a process answers by another attempt: "busy" comes after five seconds of waiting.
const PATIENCE: usize = 20;

fn read(answer: &mut impl BufRead) -> Outcome<String> {
    let mut line = String::new();
    if answer.read_line(&mut line)? == 0 {
        return Err("a process has ended too early".into());
    }
    Ok(line)
}

/// One of them: the seconds of each claim with its completion, and of all together. "Busy" is answered by another attempt, whose time counts.
pub async fn run(arguments: &Arguments) -> Outcome<Value> {
    let backend = SqliteBackend::connect(arguments.required("url")?).await?;
    let worker = arguments.required("worker")?;
    let count: usize = arguments.number("count", 50)?;
    println!("{}", json!("ready"));
    std::io::stdin().lock().read_line(&mut String::new())?;
    let begin = Instant::now();
    let mut taken = Vec::with_capacity(count + 1);
    let mut patience = PATIENCE;
    while taken.len() < count {
        let single = Instant::now();
        let item = loop {
            match backend.claim_work_item(worker, &[QUEUE]).await {
                Ok(found) => break found.ok_or("nothing is pending")?,
                Err(_) if patience > 0 => patience -= 1,
                Err(error) => return Err(error.into()),
            }
        };
        loop {
            match backend.complete_work_item_fenced(item.id, item.lease_fence).await {
                Ok(_) => break,
                Err(_) if patience > 0 => patience -= 1,
                Err(error) => return Err(error.into()),
            }
        }
        taken.push(single.elapsed().as_secs_f64());
    }
    taken.push(begin.elapsed().as_secs_f64());
    Ok(json!(taken))
}
