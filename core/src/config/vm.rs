//! Runs the configuration's script: a Luau VM without any access to the outside, bounded in memory
//! and time, that is thrown away afterwards.
//!
//! The script sees base, table, string and math, and four functions of ours: `env`, `include`,
//! `system_resolvers` and `warn` (`print` is another name of it). What they need comes from the
//! [`Host`].

mod prelude;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;

use mlua::{Lua, LuaOptions, StdLib, VmState};

use super::error::Report;
use super::value::Value;
use super::{Host, Source};
use crate::time::{Duration, Instant};

/// Octets that the VM may allocate.
const MEMORY_OCTETS: usize = 1 << 30;
/// How long the script may run, by the host's clock.
const TIME: Duration = Duration::from_secs(30);
/// Points at which the script could be stopped (calls and turns of loops) before it is, when the
/// host has no clock: some ten seconds' worth.
const POINTS: u64 = 200_000_000;
/// Points between two readings of the clock.
const POINTS_PER_READING: u64 = 256;
/// Files that include each other.
const INCLUDE_DEPTH: usize = 8;
/// Files included in all: each is compiled and kept.
const INCLUDES: usize = 1_000;
/// Messages of the script that are kept, and characters of each.
const MESSAGES: usize = 100;
const MESSAGE_CHARS: usize = 1_000;

/// A file of the configuration.
#[derive(Debug, Clone)]
pub(super) struct Text {
    /// As it is shown, and as the host knows it.
    pub(super) name: String,
    /// Where its own relative paths start.
    pub(super) folder: String,
    pub(super) text: String,
}

/// A place in one of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Which of the files.
    pub(super) file: usize,
    pub(super) line: Option<u32>,
}

/// Something that the script says, or why it failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(super) struct Message {
    pub(super) place: Place,
    pub(super) message: String,
    pub(super) expected: &'static str,
}

/// What came of running the script.
#[derive(Debug)]
pub(super) struct Evaluation {
    pub(super) result: Result<Value, Message>,
    /// What it told the operator.
    pub(super) messages: Vec<Message>,
    /// The configuration file and those it included.
    pub(super) files: Vec<Text>,
    /// Whether it asked for the system's resolvers.
    pub(super) asked_resolvers: bool,
}

/// Runs the script of `source`; `resolvers` is what `system_resolvers` gives.
pub(super) fn evaluate(
    source: &Source,
    host: &dyn Host,
    resolvers: &[SocketAddr],
    report: &Report,
) -> Evaluation {
    let main = Text {
        name: source.name.clone(),
        folder: source.folder.clone(),
        text: source.text.clone(),
    };
    let run = Run {
        host,
        resolvers,
        files: RefCell::new(vec![main]),
        stack: RefCell::new(Vec::new()),
        messages: RefCell::default(),
        asked_resolvers: Cell::new(false),
    };
    let budget = Rc::new(Budget::new(host));
    let result = run.main(&budget, report);
    Evaluation {
        result: if budget.spent.get() { Err(run.timed_out()) } else { result },
        messages: run.messages.into_inner(),
        files: run.files.into_inner(),
        asked_resolvers: run.asked_resolvers.get(),
    }
}

/// One run of a script, with what its functions need.
struct Run<'h> {
    host: &'h dyn Host,
    resolvers: &'h [SocketAddr],
    files: RefCell<Vec<Text>>,
    /// The files that are being evaluated, each included by the one before it.
    stack: RefCell<Vec<usize>>,
    messages: RefCell<Vec<Message>>,
    asked_resolvers: Cell<bool>,
}

impl Run<'_> {
    fn main(&self, budget: &Rc<Budget>, report: &Report) -> Result<Value, Message> {
        let lua = vm(budget).map_err(|error| self.message(&error))?;
        let value = lua.scope(|scope| {
            let globals = lua.globals();
            globals.set("env", scope.create_function(|lua, args| self.env(lua, args))?)?;
            globals.set("include", scope.create_function(|lua, name| self.include(lua, name))?)?;
            let resolvers = scope.create_function(|_, ()| Ok(self.system_resolvers()))?;
            globals.set("system_resolvers", resolvers)?;
            let warn = scope.create_function(|lua, args| self.warn(lua, args))?;
            globals.set("warn", &warn)?;
            globals.set("print", warn)?;
            lua.sandbox(true)?;
            match self.run_file(&lua, 0)? {
                table @ mlua::Value::Table(_) => Ok(Ok(Value::from_lua(&table, report))),
                other => Ok(Err(Message {
                    place: Place { file: 0, line: None },
                    message: format!("the file returns {}", article(other.type_name())),
                    expected: "one table",
                })),
            }
        });
        value.unwrap_or_else(|error| Err(self.message(&error)))
    }

    /// Runs one of the files and gives what it returns.
    fn run_file(&self, lua: &Lua, file: usize) -> mlua::Result<mlua::Value> {
        let text = self.files.borrow().get(file).map(|file| file.text.clone()).unwrap_or_default();
        self.stack.borrow_mut().push(file);
        // Bytecode is not accepted: it is not checked before it is run.
        let mode = mlua::chunk::ChunkMode::Text;
        let result = lua.load(text).set_name(chunk_name(file)).set_mode(mode).eval();
        self.stack.borrow_mut().pop();
        result
    }

    fn env(
        &self,
        lua: &Lua,
        (name, default): (mlua::Value, Option<mlua::Value>),
    ) -> mlua::Result<String> {
        let mlua::Value::String(name) = &name else {
            return Err(self.raise(lua, "env: the name is not a text", "env(name [, default])"));
        };
        if let Some(value) = self.host.variable(&name.to_string_lossy()) {
            return Ok(value);
        }
        match default.unwrap_or(mlua::Value::Nil) {
            mlua::Value::Nil => Ok(String::new()),
            default @ (mlua::Value::String(_)
            | mlua::Value::Integer(_)
            | mlua::Value::Number(_)
            | mlua::Value::Boolean(_)) => default.to_string(),
            other => {
                let message = format!("env: the default is {}", article(other.type_name()));
                Err(self.raise(lua, &message, "a text"))
            }
        }
    }

    fn include(&self, lua: &Lua, name: mlua::Value) -> mlua::Result<mlua::Value> {
        const EXPECTED: &str = "include(\"file.lua\")";
        let mlua::Value::String(name) = &name else {
            return Err(self.raise(lua, "include: the name is not a text", EXPECTED));
        };
        let name = name.to_string_lossy();
        let fail = |message: String| self.raise(lua, &message, "");
        if !is_lua_file(&name) {
            let message = format!("include: {name:?} is not a .lua file");
            return Err(self.raise(lua, &message, EXPECTED));
        }
        let stack = self.stack.borrow().clone();
        let folder = self.folder(stack.last().copied().unwrap_or_default());
        let path = resolve(&folder, &name);
        let on_stack =
            |file: &usize| self.files.borrow().get(*file).is_some_and(|file| file.name == path);
        if stack.iter().any(on_stack) || self.is_main(&path) {
            return Err(fail(format!("include: {path:?} includes itself")));
        }
        if stack.len() > INCLUDE_DEPTH {
            return Err(fail(format!("include: more than {INCLUDE_DEPTH} files deep")));
        }
        if self.files.borrow().len() > INCLUDES {
            return Err(fail(format!("include: more than {INCLUDES} files")));
        }
        let text = self.host.read(&path);
        let text = text.map_err(|error| fail(format!("include: cannot read {path:?}: {error}")))?;
        let file = self.files.borrow().len();
        let folder = parent(&path).to_owned();
        self.files.borrow_mut().push(Text { name: path.clone(), folder, text });
        let value = self.run_file(lua, file)?;
        if !value.is_table() {
            let kind = article(value.type_name());
            return Err(self.raise(lua, &format!("include: {path:?} returns {kind}"), "one table"));
        }
        Ok(value)
    }

    fn system_resolvers(&self) -> Vec<String> {
        self.asked_resolvers.set(true);
        self.resolvers.iter().map(ToString::to_string).collect()
    }

    fn warn(&self, lua: &Lua, args: mlua::Variadic<mlua::Value>) -> mlua::Result<()> {
        let mut message = String::new();
        for (index, arg) in args.iter().enumerate() {
            if index > 0 {
                message.push(' ');
            }
            message.push_str(&arg.to_string()?);
        }
        let message = message.chars().take(MESSAGE_CHARS).collect();
        let mut messages = self.messages.borrow_mut();
        if messages.len() < MESSAGES {
            messages.push(Message { place: self.caller(lua), message, expected: "" });
        }
        Ok(())
    }

    /// An error of one of our functions, at the place that called it.
    fn raise(&self, lua: &Lua, message: &str, expected: &'static str) -> mlua::Error {
        let message = message.to_owned();
        mlua::Error::external(Message { place: self.caller(lua), message, expected })
    }

    /// The place that called the function of ours that runs now.
    fn caller(&self, lua: &Lua) -> Place {
        let place = lua.inspect_stack(1, |debug| {
            let line = debug.current_line().and_then(|line| u32::try_from(line).ok());
            let source = debug.source();
            let file = source.short_src.as_deref().and_then(file_of_chunk)?;
            Some(Place { file, line })
        });
        place.flatten().unwrap_or(Place { file: self.current(), line: None })
    }

    /// The file that is being evaluated.
    fn current(&self) -> usize {
        self.stack.borrow().last().copied().unwrap_or_default()
    }

    fn folder(&self, file: usize) -> String {
        self.files.borrow().get(file).map(|file| file.folder.clone()).unwrap_or_default()
    }

    /// Whether a path is that of the configuration file itself, however it was named.
    fn is_main(&self, path: &str) -> bool {
        let files = self.files.borrow();
        files.first().is_some_and(|main| {
            let own_name = main.name.rsplit('/').next().unwrap_or_default();
            path == main.name || path == resolve(&main.folder, own_name)
        })
    }

    /// What Lua's error says, and where.
    fn message(&self, error: &mlua::Error) -> Message {
        let unplaced = Place { file: 0, line: None };
        if let Some(ours) = error.downcast_ref::<Message>() {
            return ours.clone();
        }
        let text = match error {
            mlua::Error::CallbackError { cause, .. } => return self.message(cause),
            mlua::Error::MemoryError(_) => {
                let message = format!("the script needs more than {} MiB", MEMORY_OCTETS >> 20);
                return Message { place: unplaced, message, expected: "" };
            }
            mlua::Error::SyntaxError { message, .. } => message.clone(),
            mlua::Error::RuntimeError(message) => message.clone(),
            other => other.to_string(),
        };
        let (text, traceback) = text.split_once("\nstack traceback:").unwrap_or((&text, ""));
        // Luau's own functions do not say where they were called.
        let (place, text) =
            split_place(text).unwrap_or_else(|| (first_place(traceback).unwrap_or(unplaced), text));
        Message { place, message: self.with_names(text), expected: "" }
    }

    /// Names the files where the VM knows them by number only.
    fn with_names(&self, text: &str) -> String {
        let files = self.files.borrow();
        let mut text = text.to_owned();
        for (file, Text { name, .. }) in files.iter().enumerate() {
            text = text.replace(&format!("#{file}:"), &format!("{name}:"));
        }
        text.chars().take(MESSAGE_CHARS).collect()
    }

    fn timed_out(&self) -> Message {
        let message = format!("the script runs longer than {} seconds", TIME.as_secs());
        Message { place: Place { file: self.current(), line: None }, message, expected: "" }
    }
}

/// How long the script may still run.
struct Budget {
    clock: Option<(Box<dyn Fn() -> Instant>, Instant)>,
    points: Cell<u64>,
    /// Set for good: a script that catches the error does not go on.
    spent: Cell<bool>,
}

impl Budget {
    fn new(host: &dyn Host) -> Self {
        let clock = host.clock().map(|clock| {
            let deadline = clock() + TIME;
            (clock, deadline)
        });
        Self { clock, points: Cell::new(0), spent: Cell::new(false) }
    }

    /// Counts a point at which the script can be stopped.
    fn pass(&self) -> mlua::Result<VmState> {
        let points = self.points.get() + 1;
        self.points.set(points);
        let over = match &self.clock {
            Some((clock, deadline)) => {
                points.is_multiple_of(POINTS_PER_READING) && clock() >= *deadline
            }
            None => points >= POINTS,
        };
        if over || self.spent.get() {
            self.spent.set(true);
            return Err(mlua::Error::runtime("time is up"));
        }
        Ok(VmState::Continue)
    }
}

/// A VM with the allowed functions only.
fn vm(budget: &Rc<Budget>) -> mlua::Result<Lua> {
    let libraries = StdLib::TABLE | StdLib::STRING | StdLib::MATH;
    let lua = Lua::new_with(libraries, LuaOptions::new())?;
    lua.set_memory_limit(MEMORY_OCTETS)?;
    prelude::install(&lua)?;
    let budget = Rc::clone(budget);
    lua.set_interrupt(move |_| budget.pass());
    Ok(lua)
}

/// Files are known to the VM by their number: their names may have any length and any colons.
fn chunk_name(file: usize) -> String {
    format!("=#{file}")
}

/// The file that a chunk's name stands for.
fn file_of_chunk(name: &str) -> Option<usize> {
    name.strip_prefix('#')?.parse().ok()
}

/// Splits `#0:14: message` into the place and the message.
fn split_place(text: &str) -> Option<(Place, &str)> {
    let (file, rest) = text.split_once(':')?;
    let (line, message) = rest.split_once(": ")?;
    let place = Place { file: file_of_chunk(file)?, line: Some(line.parse().ok()?) };
    Some((place, message))
}

/// The innermost place that a traceback names.
fn first_place(traceback: &str) -> Option<Place> {
    traceback.lines().find_map(|line| split_place(line.trim_start()).map(|(place, _)| place))
}

/// A path as seen from the folder of a file.
pub(super) fn resolve_from(file: &Text, path: &str) -> String {
    resolve(&file.folder, path)
}

/// A path as seen from a folder.
pub(super) fn resolve(folder: &str, path: &str) -> String {
    let mut path = path;
    while let Some(rest) = path.strip_prefix("./") {
        path = rest;
    }
    if path.starts_with('/') || folder.is_empty() {
        return path.to_owned();
    }
    format!("{}/{path}", folder.trim_end_matches('/'))
}

/// The folder of a path; empty if it names none.
fn parent(path: &str) -> &str {
    match path.rsplit_once('/') {
        Some(("", _)) => "/",
        Some((folder, _)) => folder,
        None => "",
    }
}

/// Whether a file name ends with `.lua` in any letter case.
fn is_lua_file(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, extension)| extension.eq_ignore_ascii_case("lua"))
}

fn article(kind: &str) -> String {
    match kind {
        "nil" => "nothing".to_owned(),
        "integer" => "a number".to_owned(),
        kind => format!("a {kind}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_seen_from_the_folder() {
        assert_eq!(resolve("/etc/balancedns", "a.lua"), "/etc/balancedns/a.lua");
        assert_eq!(resolve("/etc/balancedns/", "./a.lua"), "/etc/balancedns/a.lua");
        assert_eq!(resolve("/etc/balancedns", "/a.lua"), "/a.lua");
        assert_eq!(resolve("", "a/b.lua"), "a/b.lua");
        assert_eq!((parent("/a/b.lua"), parent("/b.lua"), parent("b.lua")), ("/a", "/", ""));
    }

    #[test]
    fn without_a_clock_the_points_are_counted() {
        let budget = Budget { clock: None, points: Cell::new(POINTS - 2), spent: Cell::new(false) };
        assert!(budget.pass().is_ok());
        assert!(budget.pass().is_err());
        assert!(budget.spent.get() && budget.pass().is_err());
    }

    #[test]
    fn places_are_split_off() {
        let place = Place { file: 2, line: Some(14) };
        assert_eq!(split_place("#2:14: no: such"), Some((place, "no: such")));
        assert_eq!(split_place("no: such: thing"), None);
        let traceback = "\n\t[C]: in ?\n\t#1:7: in function f\n\t#0:1: in function <#0:1>";
        assert_eq!(first_place(traceback), Some(Place { file: 1, line: Some(7) }));
    }
}
