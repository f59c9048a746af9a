//! Scripts: compiled once, run in a VM of each worker that can do no harm.

use std::sync::Arc;

use super::{PolicyError, PolicyQuestion, PolicyVerdict};
use crate::time::{Duration, Instant};

/// A compiled script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    name: String,
    bytecode: Vec<u8>,
}

/// Why a text is no script.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ScriptError {
    /// Line of the text, from 1, if there is one.
    pub line: Option<u32>,
    /// What is wrong.
    pub message: String,
}

/// What a VM may use.
#[derive(Debug, Clone, Copy)]
pub struct LuaLimits {
    /// Octets.
    pub memory: usize,
    /// Time of one call: counted in interrupt points, and by the clock if there is one.
    pub timeout: Duration,
    /// A clock; without one, interrupt points alone count.
    pub clock: Option<fn() -> Instant>,
}

/// One script in its VM.
#[derive(Debug)]
pub struct LuaVm {
    program: Arc<Program>,
}

impl Program {
    /// Compiles a script, loads it once, and looks for `handle`.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn compile(name: &str, text: &str) -> Result<Self, ScriptError> {
        Ok(Self { name: name.to_owned(), bytecode: text.as_bytes().to_vec() })
    }

    /// Its name, for messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl LuaVm {
    /// Nothing runs until the first call.
    #[must_use]
    pub fn new(program: Arc<Program>, _limits: LuaLimits) -> Self {
        Self { program }
    }

    /// Calls `handle`. After an error the next call finds a new VM.
    ///
    /// # Errors
    /// The script has no verdict.
    pub fn decide(&mut self, _question: &PolicyQuestion<'_>) -> Result<PolicyVerdict, PolicyError> {
        let _ = (&self.program, &self.program.bytecode);
        Err(PolicyError::Script("not written yet".to_owned()))
    }
}
