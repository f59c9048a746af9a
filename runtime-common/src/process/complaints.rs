//! What plugins write to standard error, as lines of the daemon's log.
//!
//! Somebody who writes a plugin needs to see why it fails, so it does not go to nowhere; and what a
//! plugin writes may be anything, so it does not go to the log as it is. Each process is heard to a
//! bound for each question: beyond it, whatever it writes waits in the pipe, and then the process.
//! Of that the beginning is told, escaped, as one line, and of each plugin one line a second.

use std::collections::BTreeMap;

use balancedns_core::time::{Duration, Instant};

/// Octets of standard error that are read for each question.
const HEARD_OCTETS: usize = 65_536;
/// Octets of it that are told.
const TOLD_OCTETS: usize = 1_024;
/// Time between two lines of one plugin.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// What one process has complained of.
#[derive(Debug)]
pub(super) struct Complaint {
    text: Vec<u8>,
    allowance: usize,
}

impl Complaint {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        Self { text: Vec::new(), allowance: HEARD_OCTETS }
    }

    /// Whether more of it is to be read.
    pub(super) fn is_heard(&self) -> bool {
        self.allowance > 0
    }

    /// It is asked something more, and may complain of that too.
    pub(super) fn hear_more(&mut self) {
        self.allowance = HEARD_OCTETS;
    }

    /// This was read.
    pub(super) fn hear(&mut self, octets: &[u8]) {
        self.allowance = self.allowance.saturating_sub(octets.len());
        let room = TOLD_OCTETS - self.text.len();
        self.text.extend(octets.iter().take(room));
    }

    /// The beginning of what it has complained of since it was last taken, in one line.
    fn take(&mut self) -> Option<String> {
        let text = std::mem::take(&mut self.text);
        let text = String::from_utf8_lossy(&text);
        let text = text.trim();
        (!text.is_empty()).then(|| text.escape_debug().to_string())
    }
}

/// When each plugin's complaints were told last.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    told: BTreeMap<String, Instant>,
}

impl Complaints {
    /// Tells the operator what a process of a plugin has complained of, if anything.
    pub(super) fn tell(&mut self, now: Instant, plugin: &str, complaint: &mut Complaint) {
        if let Some(text) = self.passed(now, plugin, complaint) {
            tracing::warn!(event = "plugin_stderr", "plugin {plugin}: {text}");
        }
    }

    fn passed(&mut self, now: Instant, plugin: &str, complaint: &mut Complaint) -> Option<String> {
        let text = complaint.take()?;
        self.told.retain(|_, at| now.since(*at) < TELL_EVERY);
        if self.told.contains_key(plugin) {
            return None;
        }
        self.told.insert(plugin.to_owned(), now);
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(octets: &[u8]) -> Complaint {
        let mut complaint = Complaint::new();
        complaint.hear(octets);
        complaint
    }

    #[test]
    fn the_beginning_is_told_in_one_line_and_cannot_be_taken_for_another() {
        let told = said(b"  first\nsecond \xff\x1b[31m\n").take();
        assert_eq!(told.as_deref(), Some("first\\nsecond \u{fffd}\\u{1b}[31m"));
        assert_eq!(said(b"\n").take(), None);
        let mut long = said(&[b'x'; 3 * TOLD_OCTETS]);
        long.hear(b"more");
        assert_eq!(long.take().map(|text| text.len()), Some(TOLD_OCTETS));
        assert_eq!(long.take(), None);
    }

    #[test]
    fn each_question_is_heard_to_a_bound() {
        let mut complaint = said(&[0; HEARD_OCTETS - 1]);
        assert!(complaint.is_heard());
        complaint.hear(b"xy");
        assert!(!complaint.is_heard());
        complaint.hear_more();
        assert!(complaint.is_heard());
    }

    #[test]
    fn each_plugin_is_told_of_once_a_second() {
        let mut complaints = Complaints::default();
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        let mut passes = |ms, plugin| complaints.passed(at(ms), plugin, &mut said(b"no")).is_some();
        assert!(passes(0, "a") && passes(1, "b"));
        assert!(!passes(999, "a"));
        assert!(passes(1_000, "a"));
        assert!(!passes(1_000, "b") && passes(1_001, "b"));
    }
}
