//! A policy as an executable: it reads questions, a line of JSON each, and writes a line for each.
//!
//! It serves both modes. Run once for each question, it reads one line, and its input ends. Kept
//! running, it reads lines as long as there are any; they have an id, which goes back with the
//! answer. What it decides is what `scripts/policy.sh` decides too.

use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize};

/// A line of input. There may be more in it than is used here.
#[derive(Deserialize)]
struct Asked {
    id: Option<u64>,
    question: Question,
}

#[derive(Deserialize)]
struct Question {
    /// In lower case, with a dot at the end.
    domain: String,
}

/// A line of output.
#[derive(Serialize)]
struct Decided {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    #[serde(flatten)]
    decision: Decision,
}

#[derive(Serialize)]
#[serde(tag = "action", rename_all = "SCREAMING_SNAKE_CASE")]
enum Decision {
    Forward,
    Block,
    Rewrite { rewrite_domain: &'static str },
    LocalData { local_data: LocalData },
}

#[derive(Serialize)]
struct LocalData {
    ttl: u32,
    ips: &'static [&'static str],
}

/// What this policy is about.
fn decide(domain: &str) -> Decision {
    if is_at_or_below(domain, "ads.example.") {
        return Decision::Block;
    }
    match domain {
        "www.search.example." => Decision::Rewrite { rewrite_domain: "safe.search.example." },
        "printer.example." => {
            let ips = &["192.0.2.10", "2001:db8::10"];
            Decision::LocalData { local_data: LocalData { ttl: 300, ips } }
        }
        _ => Decision::Forward,
    }
}

/// Whether a name is another one, or below it by whole labels.
fn is_at_or_below(domain: &str, parent: &str) -> bool {
    domain.strip_suffix(parent).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn main() -> io::Result<()> {
    let mut output = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let asked: Asked = serde_json::from_str(&line?)?;
        let decision = decide(&asked.question.domain);
        serde_json::to_writer(&mut output, &Decided { id: asked.id, decision })?;
        output.write_all(b"\n")?;
        output.flush()?;
    }
    Ok(())
}
