//! Scenario files: readable tests of what a resolver does, with its upstreams and clients scripted
//! and the time virtual.
//!
//! Owns the format and its runner, which is an adapter around one [`Machine`](crate::machine::Machine).
//! It may not know how the engine works: it sees what adapters see, and decodes messages with
//! hickory-proto, never with core's own code. `docs/scenarios.md` is the format's reference; the
//! files are in `scenarios/`.
//!
//! `lines` makes a tree of a text, `parse`, `steps`, `rules`, `expect`, `message` and `wire` give it
//! its meaning; `world` is what is around the engine, `clients`, `upstreams` and `processes` are those
//! who take part, `run` carries steps out and `check` compares.

mod check;
mod clients;
mod exchanges;
mod expect;
mod lines;
mod message;
mod parse;
#[cfg(test)]
mod process_tests;
mod processes;
mod rules;
mod run;
mod steps;
#[cfg(test)]
mod tests;
mod upstreams;
mod wire;
mod world;

use parse::Script;

/// A scenario that can be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scenario {
    name: String,
    script: Script,
}

/// What is wrong with a scenario, or with what it shows, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScenarioError {
    /// The text cannot be understood.
    #[error("{file}:{line}: {what}")]
    Malformed {
        /// The scenario's name.
        file: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        what: String,
    },
    /// Something is not as it is expected.
    #[error("{file}:{line}: {what}")]
    Failed {
        /// The scenario's name.
        file: String,
        /// The line of the step, from 1.
        line: usize,
        /// What was expected and what came.
        what: String,
    },
}

impl Scenario {
    /// Reads a scenario; `name` is how it is called in errors: its path.
    ///
    /// # Errors
    /// [`ScenarioError::Malformed`]: the first thing that cannot be understood.
    pub fn parse(name: &str, text: &str) -> Result<Self, ScenarioError> {
        let script = parse::parse(text).map_err(|fault| ScenarioError::Malformed {
            file: name.to_owned(),
            line: fault.line,
            what: fault.what,
        })?;
        Ok(Self { name: name.to_owned(), script })
    }

    /// What it shows, in a sentence.
    #[must_use]
    pub fn title(&self) -> &str {
        &self.script.title
    }

    /// The sections of RFCs, or the pages of the documentation, that it shows.
    #[must_use]
    pub fn shows(&self) -> &str {
        &self.script.shows
    }

    /// Runs it, each time from the start.
    ///
    /// # Errors
    /// [`ScenarioError::Failed`]: the first thing that is not as it is expected.
    pub fn run(&self) -> Result<(), ScenarioError> {
        run::run(&self.script, &self.name).map_err(|fault| ScenarioError::Failed {
            file: self.name.clone(),
            line: fault.line,
            what: fault.what,
        })
    }
}
