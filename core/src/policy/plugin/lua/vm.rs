//! One VM: how a script comes into it, and how its `handle` is called.

use std::fmt::Write as _;
use std::rc::Rc;

use mlua::chunk::ChunkMode;
use mlua::state::{GcIncParams, GcMode};
use mlua::{Function, Lua, LuaOptions, StdLib, Value, VmState};

use super::super::decode::verdict;
use super::super::{PolicyError, PolicyQuestion, PolicyVerdict};
use super::budget::Budget;
use super::message::{SCRIPT, policy_error, type_name};
use super::{Program, result, sandbox};
use crate::time::{Duration, Instant};
use crate::wire::DisplayName;

/// How long a script's own lines may run, before its `handle` is called: they make tables.
const LOAD_TIME: Duration = Duration::from_millis(100);

/// Size of the heap in percent of what is in use, at which a cycle of the collector should end.
/// Luau's own is 200; the limit holds for garbage too, so that there is less of it here.
const HEAP_GOAL: i32 = 150;
/// Work of the collector in percent of what is allocated: enough for that goal.
const STEP_MULTIPLIER: i32 = 400;

/// A script that has been loaded.
#[derive(Debug)]
pub(super) struct Vm {
    /// Calls `handle` with a question made from its arguments.
    caller: Function,
    budget: Rc<Budget>,
    domain: String,
    record_type: String,
    client: String,
    lua: Lua,
}

/// Why a script could not be loaded.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    /// Its own lines failed.
    #[error(transparent)]
    Lua(#[from] mlua::Error),
    /// They take too long.
    #[error("the script takes longer than {} ms to load", LOAD_TIME.as_millis())]
    Timeout,
    /// There is no function `handle`.
    #[error("the global \"handle\" is {0} instead of a function")]
    NoHandle(&'static str),
}

impl Vm {
    /// Makes a VM of that many octets and runs the script's own lines in it.
    pub(super) fn load(
        program: &Program,
        memory: usize,
        clock: Option<fn() -> Instant>,
    ) -> Result<Self, LoadError> {
        let libraries = sandbox::LIBRARIES.into_iter().fold(StdLib::NONE, |all, one| all | one);
        // Dropping the handle that made a VM collects all garbage first; a copy's end just frees.
        let lua = Lua::new_with(libraries, LuaOptions::new())?.clone();
        lua.set_memory_limit(memory)?;
        let collector = GcIncParams::default().goal(HEAP_GOAL).step_multiplier(STEP_MULTIPLIER);
        lua.gc_set_mode(GcMode::Incremental(collector));
        let budget = Rc::new(Budget::new(clock));
        let make_caller = sandbox::install(&lua, &program.prelude, &budget)?;
        {
            let budget = Rc::clone(&budget);
            lua.set_interrupt(move |lua| {
                if budget.pass(lua.used_memory()) {
                    return Ok(VmState::Continue);
                }
                Err(mlua::Error::runtime("time is up"))
            });
        }
        budget.start(LOAD_TIME, lua.used_memory());
        let loaded = run(&lua, &program.bytecode, &make_caller);
        if budget.is_spent() {
            return Err(LoadError::Timeout);
        }
        let (domain, record_type, client) = Default::default();
        Ok(Self { caller: loaded?, budget, domain, record_type, client, lua })
    }

    /// Calls `handle`. After an error the VM is not to be used again.
    pub(super) fn call(
        &mut self,
        question: &PolicyQuestion<'_>,
        time: Duration,
    ) -> Result<PolicyVerdict, PolicyError> {
        rewrite(&mut self.domain, &DisplayName(question.name));
        rewrite(&mut self.record_type, &question.record_type);
        if let Some(client) = &question.client {
            rewrite(&mut self.client, client);
        }
        let client = question.client.map(|_| self.client.as_str());
        let transport = question.transport.map(|transport| transport.name());
        let number = question.record_type.0;
        self.budget.start(time, self.lua.used_memory());
        let arguments =
            (self.domain.as_str(), self.record_type.as_str(), number, client, transport);
        let returned = self.caller.call::<Value>(arguments);
        // Whatever the script made of the error that stopped it.
        if self.budget.is_spent() {
            return Err(PolicyError::Timeout);
        }
        let value = returned.map_err(|error| policy_error(&error))?;
        if value.is_nil() {
            return Ok(PolicyVerdict::default());
        }
        verdict(&result::field(&value).map_err(|error| policy_error(&error))?)
    }
}

/// Runs the script's own lines and gives the caller of its `handle`.
fn run(lua: &Lua, bytecode: &[u8], make_caller: &Function) -> Result<Function, LoadError> {
    let chunk = lua.load(bytecode).set_name(format!("={SCRIPT}")).set_mode(ChunkMode::Binary);
    chunk.exec()?;
    let handle: Value = lua.globals().raw_get("handle")?;
    match handle.as_function() {
        Some(handle) => Ok(make_caller.call(handle)?),
        None => Err(LoadError::NoHandle(type_name(&handle))),
    }
}

/// Puts what is displayed in place of a text, whose memory is used again.
fn rewrite(text: &mut String, shown: &impl std::fmt::Display) {
    text.clear();
    write!(text, "{shown}").expect("strings take whatever is written");
}
