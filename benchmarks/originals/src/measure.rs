//! Times of single calls, and what is said about them.

use std::time::{Duration, Instant};

use serde_json::{json, Map, Value};

/// The time of each call, and of all together.
pub struct Times {
    calls: Vec<Duration>,
    whole: Duration,
}

impl Times {
    /// Calls of several threads, which began together.
    pub fn since(calls: Vec<Duration>, begin: Instant) -> Self {
        Self {
            calls,
            whole: begin.elapsed(),
        }
    }

    /// Calls of several processes, and the time of all together.
    pub fn of_all(calls: Vec<Duration>, whole: Duration) -> Self {
        Self { calls, whole }
    }

    /// Calls that followed each other on one thread, without what lay between them.
    pub fn of_calls(calls: Vec<Duration>) -> Self {
        let whole = calls.iter().sum();
        Self { calls, whole }
    }

    /// `setting` with calls a second over all threads, and the times of single calls in microseconds.
    pub fn report(mut self, setting: Value) -> Value {
        self.calls.sort_unstable();
        let at = |part: usize, of: usize| {
            let last = self.calls.len().saturating_sub(1);
            let time = self.calls.get(last * part / of).copied().unwrap_or_default();
            (time.as_secs_f64() * 1e7).round() / 10.0
        };
        let mut report: Map<String, Value> = setting.as_object().cloned().unwrap_or_default();
        let per_second = self.calls.len() as f64 / self.whole.as_secs_f64();
        report.insert("calls".into(), json!(self.calls.len()));
        report.insert("calls_per_second".into(), json!((per_second * 10.0).round() / 10.0));
        report.insert("median_us".into(), json!(at(1, 2)));
        report.insert("quartiles_us".into(), json!([at(1, 4), at(3, 4)]));
        report.insert("worst_us".into(), json!(at(1, 1)));
        report.insert(
            "seconds".into(),
            json!((self.whole.as_secs_f64() * 1000.0).round() / 1000.0),
        );
        Value::Object(report)
    }
}
