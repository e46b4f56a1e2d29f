//! The command line: words first, then `--option value` pairs, some of which may be repeated.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use crate::Outcome;

/// What stands on one command line, or in one line of a session.
pub struct Arguments {
    words: Vec<String>,
    options: Vec<(String, String)>,
}

impl Arguments {
    pub fn parse(given: impl IntoIterator<Item = String>) -> Outcome<Self> {
        let mut words = Vec::new();
        let mut options = Vec::new();
        let mut given = given.into_iter();
        while let Some(word) = given.next() {
            match word.strip_prefix("--") {
                Some(name) => {
                    let value = given.next().ok_or(format!("--{name} needs a value"))?;
                    options.push((name.to_string(), value));
                }
                None if options.is_empty() => words.push(word),
                None => return Err(format!("{word:?} stands after an option").into()),
            }
        }
        Ok(Self { words, options })
    }

    pub fn word(&self, position: usize) -> &str {
        self.words.get(position).map_or("", String::as_str)
    }

    pub fn option(&self, name: &str) -> Option<&str> {
        self.all(name).last().copied()
    }

    pub fn required(&self, name: &str) -> Outcome<&str> {
        self.option(name).ok_or_else(|| format!("--{name} is missing").into())
    }

    pub fn number<T: FromStr>(&self, name: &str, default: T) -> Outcome<T> {
        match self.option(name) {
            None => Ok(default),
            Some(text) => text
                .parse()
                .map_err(|_| format!("--{name} {text}: not a number").into()),
        }
    }

    /// A moment in RFC 3339; now, where the option is left out.
    pub fn moment(&self, name: &str) -> Outcome<DateTime<Utc>> {
        match self.option(name) {
            None => Ok(Utc::now()),
            Some(text) => Ok(text.parse()?),
        }
    }

    /// The fields that `--json {...}` and any number of `--set field=value` give. A value that is not JSON is a text.
    pub fn fields(&self) -> Outcome<Map<String, Value>> {
        let mut fields = match self.option("json") {
            Some(text) => serde_json::from_str(text)?,
            None => Map::new(),
        };
        for assignment in self.all("set") {
            let (field, text) = assignment.split_once('=').ok_or(format!("--set {assignment}: no ="))?;
            let value = serde_json::from_str(text).unwrap_or_else(|_| Value::from(text));
            fields.insert(field.to_string(), value);
        }
        Ok(fields)
    }

    fn all(&self, name: &str) -> Vec<&str> {
        let named = self.options.iter().filter(|(given, _)| given == name);
        named.map(|(_, value)| value.as_str()).collect()
    }
}
