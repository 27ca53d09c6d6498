//! The gateway's own last lines, for `logs.tail`.
//!
//! They are kept in memory, so many bytes and no more: a cell has no log file, and what its agent prints is the
//! launcher's. Secrets of the configuration are taken out when they are read.

use crate::calendar;
use cofferdam_base::Clock;
use serde_json::{Map, Value, json};
use std::{
    collections::VecDeque,
    fmt::{self, Write as _},
    sync::{Mutex, MutexGuard, PoisonError},
};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context, Layer};

/// So many bytes are kept.
const KEPT: usize = 32 * 1024;
/// The longest line.
const LONGEST: usize = 1024;

/// Of this process: what logs knows no gateway.
static LINES: Mutex<Lines> = Mutex::new(Lines { texts: VecDeque::new(), kept: 0, end: 0 });

struct Lines {
    texts: VecDeque<String>,
    /// Bytes of them.
    kept: usize,
    /// Bytes of all that there ever were.
    end: u64,
}

fn lines() -> MutexGuard<'static, Lines> {
    LINES.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lines {
    fn push(&mut self, line: String) {
        self.kept += line.len();
        self.end += line.len() as u64;
        self.texts.push_back(line);
        while self.kept > KEPT {
            let Some(first) = self.texts.pop_front() else { break };
            self.kept -= first.len();
        }
    }
}

/// What was logged since a place, as far as it is kept.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Tail {
    pub(crate) lines: Vec<String>,
    /// The place behind them.
    pub(crate) end: u64,
    /// Some of what was asked for are not among them.
    pub(crate) truncated: bool,
    /// The place is none of this start's.
    pub(crate) reset: bool,
}

/// The last lines: those behind a place, if it is given, and so many of so many bytes at most.
pub(crate) fn tail(since: Option<u64>, limit: usize, bytes: usize) -> Tail {
    let all = lines();
    let reset = since.is_some_and(|since| since > all.end);
    let since = since.filter(|_| !reset).unwrap_or(0);
    let (mut out, mut size, mut at) = (VecDeque::new(), 0, all.end);
    for line in all.texts.iter().rev() {
        size += line.len();
        if at <= since || out.len() == limit || size > bytes {
            break;
        }
        at -= line.len() as u64;
        out.push_front(line.clone());
    }
    Tail { lines: out.into(), end: all.end, truncated: at > since, reset }
}

/// Keeps what the gateway says of itself.
pub struct Keep(Box<dyn Clock>);

impl Keep {
    /// With the clock that its lines bear.
    pub fn new(clock: Box<dyn Clock>) -> Self {
        Self(clock)
    }
}

impl fmt::Debug for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keep")
    }
}

impl<S: Subscriber> Layer<S> for Keep {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let meta = event.metadata();
        if *meta.level() > Level::INFO || !meta.target().starts_with("cofferdam") {
            return;
        }
        let mut said = Said::default();
        event.record(&mut said);
        let mut message = said.message;
        for (key, value) in said.fields {
            let _ = write!(message, " {key}={value}");
        }
        message.truncate(message.floor_char_boundary(LONGEST));
        let subsystem = meta.target().rsplit("::").next().unwrap_or_default();
        let line = json!({
            "time": calendar::written(self.0.now().0), "message": message,
            "level": meta.level().as_str().to_lowercase(), "subsystem": subsystem,
        });
        lines().push(line.to_string());
    }
}

#[derive(Default)]
struct Said {
    message: String,
    fields: Map<String, Value>,
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let value = format!("{value:?}");
        match field.name() {
            "message" => self.message = value,
            name => drop(self.fields.insert(name.to_owned(), value.into())),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt as _;

    struct Never;

    impl Clock for Never {
        fn now(&self) -> cofferdam_base::Millis {
            cofferdam_base::Millis(0)
        }
    }

    /// The only test that logs into it: it is one of the process.
    #[test]
    fn the_last_lines_are_kept_and_read_on_from_where_one_was() {
        let logged = tracing_subscriber::registry().with(Keep::new(Box::new(Never)));
        tracing::subscriber::with_default(logged, || {
            tracing::info!(run = "r1", "it begins");
            tracing::debug!("no");
            tracing::info!(target: "somebody_else", "no");
        });
        let first = tail(None, 10, 10_000);
        let line: Value =
            serde_json::from_str(first.lines.last().map_or("", String::as_str)).unwrap_or_default();
        assert_eq!((&line["message"], &line["level"]), (&json!("it begins run=\"r1\""), &json!("info")));
        assert_eq!(tail(Some(first.end), 10, 10_000).lines, [""; 0]);
        assert!(tail(Some(first.end + 1), 10, 10_000).reset);
        for at in 0..200 {
            lines().push(format!("{at:0>500}"));
        }
        let more = tail(Some(first.end), 3, 10_000);
        assert_eq!((more.lines.len(), more.truncated, more.end), (3, true, first.end + 100_000));
        assert_eq!(tail(Some(more.end - 1000), 10, 10_000).lines.len(), 2);
        assert!(!tail(Some(more.end - 1000), 10, 10_000).truncated);
        assert!(tail(None, 10, 999).lines.len() == 1 && lines().kept <= KEPT);
    }
}
