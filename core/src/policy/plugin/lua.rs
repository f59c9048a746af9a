//! Scripts: compiled once, run in a VM of each worker that can do no harm.
//!
//! A script is Luau. It sees base, table, string, math and bit32 as far as they end in bounded time
//! and reach nothing outside, and helpers of ours (`helpers`); all of it is read-only. What a run
//! may take is bounded by memory and by [`Budget`](budget::Budget). Whatever goes wrong, the VM is
//! thrown away, and the next call makes a new one from the same bytecode.

mod budget;
mod helpers;
mod message;
mod result;
mod sandbox;
#[cfg(test)]
mod tests;
mod vm;

use std::sync::Arc;

use mlua::chunk::Compiler;

use self::message::Message;
use self::vm::{LoadError, Vm};
use super::{PolicyError, PolicyQuestion, PolicyVerdict};
use crate::planted::{Bug, is_planted};
use crate::time::{Duration, Instant};

/// Octets of a script's text: what is larger is data, which belongs into lists.
const TEXT_OCTETS: usize = 1 << 20;
/// What runs before the script in each VM.
const PRELUDE_TEXT: &str = include_str!("lua/prelude.luau");
/// Functions that the prelude replaces and that the compiler would else call past it.
const REPLACED_BUILTINS: [&str; 1] = ["tonumber"];

/// A compiled script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    name: String,
    prelude: Vec<u8>,
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
    limits: LuaLimits,
    vm: Option<Vm>,
}

impl Program {
    /// Compiles a script, loads it once into a VM of that many octets, and looks for `handle`.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn compile(name: &str, text: &str, memory: usize) -> Result<Self, ScriptError> {
        if text.len() > TEXT_OCTETS {
            let message = format!("the script is longer than {} KiB", TEXT_OCTETS >> 10);
            return Err(ScriptError { line: None, message });
        }
        // A text is always compiled, so that no file can bring bytecode, which is not checked
        // before it is run.
        let script = Compiler::new()
            .set_optimization_level(2)
            .set_disabled_builtins(REPLACED_BUILTINS)
            .compile(text)?;
        // Not inlined: errors are raised at the caller, counted in calls.
        let prelude = Compiler::new().set_optimization_level(1).compile(PRELUDE_TEXT)?;
        let program = Self { name: name.to_owned(), prelude, bytecode: script };
        Vm::load(&program, memory, None)?;
        Ok(program)
    }

    /// Its name, for messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl From<mlua::Error> for ScriptError {
    fn from(error: mlua::Error) -> Self {
        let Message { line, text } = message::message(&error);
        Self { line, message: text }
    }
}

impl From<LoadError> for ScriptError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Lua(error) if message::is_memory(&error) => {
                let message = "the script needs more memory than plugins.memory_limit_mb";
                Self { line: None, message: message.to_owned() }
            }
            LoadError::Lua(error) => error.into(),
            LoadError::Timeout | LoadError::NoHandle(_) => {
                Self { line: None, message: error.to_string() }
            }
        }
    }
}

impl LuaVm {
    /// Nothing runs until the first call.
    #[must_use]
    pub fn new(program: Arc<Program>, limits: LuaLimits) -> Self {
        Self { program, limits, vm: None }
    }

    /// Calls `handle`. After an error the next call finds a new VM.
    ///
    /// # Errors
    /// The script has no verdict.
    pub fn decide(&mut self, question: &PolicyQuestion<'_>) -> Result<PolicyVerdict, PolicyError> {
        let LuaLimits { memory, timeout, clock } = self.limits;
        let mut vm = match self.vm.take() {
            Some(vm) => vm,
            None => Vm::load(&self.program, memory, clock)?,
        };
        let verdict = vm.call(question, timeout);
        if verdict.is_ok() || is_planted(Bug::VmOutlivesError) {
            self.vm = Some(vm);
        }
        verdict
    }
}

impl From<LoadError> for PolicyError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Lua(error) => message::policy_error(&error),
            LoadError::Timeout => Self::Timeout,
            LoadError::NoHandle(_) => Self::Script(error.to_string()),
        }
    }
}
