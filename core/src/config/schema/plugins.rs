//! `plugins`: scripts, which are compiled here, and executables, which are looked for.
//!
//! While plugins are off what is configured about them is checked as far as that needs no file.

use std::sync::Arc;

use super::super::Host;
use super::super::reader::{Item, Section};
use super::super::vm::resolve;
use super::settings::MILLIS;
use super::unique_name;
use crate::policy::{ExecMode, ExecSettings, OnError, Plugin, PluginKind, PluginSettings, Program};
use crate::time::Duration;

/// Plugins that a configuration may have: each is asked in turn.
const PLUGINS: usize = 100;
/// How long one call may take if nothing says otherwise.
const TIMEOUT_MS: u64 = 20;

const PATH: &str = "the path of a file";
/// The key that switches everything on.
const ENABLED: &str = "enabled";

/// What is known of the plugins.
pub(super) struct Plugins {
    pub(super) settings: PluginSettings,
    /// The names of all that are configured, be they on or not.
    pub(super) names: Vec<String>,
    /// The places of those that clients pass whose group says nothing of plugins.
    pub(super) usual: Vec<usize>,
    /// Whether they are on.
    pub(super) enabled: bool,
}

/// What an entry is: of another file than its own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Runtime {
    Lua,
    Exec,
}

/// Where files are, and which of them were read.
pub(super) struct Files<'h> {
    pub(super) host: &'h dyn Host,
    pub(super) folder: &'h str,
    pub(super) read: &'h mut Vec<String>,
}

/// Reads the section.
pub(super) fn read(mut section: Section<'_>, files: &mut Files<'_>) -> Plugins {
    const ON_ERROR: &[(&str, OnError)] = &[
        ("servfail", OnError::ServFail),
        ("forward", OnError::Forward),
        ("block", OnError::Block),
    ];
    let enabled = section.boolean(ENABLED, false);
    let timeout = section.millis("timeout_ms", MILLIS, TIMEOUT_MS);
    let mut plugins = Plugins {
        settings: PluginSettings {
            plugins: Vec::new(),
            on_error: section.choice("on_error", ON_ERROR, OnError::ServFail),
            memory_limit: section.integer::<usize>("memory_limit_mb", 1..=1_024, 16) << 20,
            disable_after: section.integer("disable_after_failures", 0..=1_000_000, 0),
        },
        names: Vec::new(),
        usual: Vec::new(),
        enabled,
    };
    let entries = section.list("entries", "plugins");
    let scripts = section.list("scripts", "paths");
    if let (Some(_), Some(script)) = (entries.first(), scripts.first()) {
        script.error("stands beside plugins.entries", "one of both lists");
    }
    if let Some(one_more) = entries.get(PLUGINS).or(scripts.get(PLUGINS)) {
        one_more.error("is one plugin too many", &format!("at most {PLUGINS} plugins"));
    }
    let files = &mut *files;
    for item in entries.into_iter().take(PLUGINS) {
        plugins.entry(item, timeout, files);
    }
    for item in scripts.into_iter().take(PLUGINS) {
        plugins.script(&item, timeout, files);
    }
    if enabled && plugins.names.is_empty() {
        section.warning(ENABLED, "has no effect: there is no plugin");
    }
    section.finish();
    plugins
}

impl Plugins {
    /// Reads an entry, whose name is that of its file unless it has one.
    fn entry(&mut self, item: Item<'_>, timeout: Duration, files: &mut Files<'_>) {
        const RUNTIMES: &[(&str, Runtime)] =
            &[("lua", Runtime::Lua), ("go_exec", Runtime::Exec), ("exec", Runtime::Exec)];
        const MODES: &[(&str, ExecMode)] =
            &[("once", ExecMode::Once), ("worker", ExecMode::Worker)];
        let mut section = item.section();
        let path_item = section.required("path", PATH);
        let path = path_item.as_ref().and_then(file_path);
        let name = match (section.item("name"), &path_item, path) {
            (Some(name), _, _) => unique_name(&name, "plugin", &self.names),
            (None, Some(item), Some(path)) => Some(self.name_of_file(item, path)),
            (None, _, _) => None,
        };
        let runtime = section.choice("runtime", RUNTIMES, Runtime::Lua);
        let mode = section.item("mode");
        let args = section.item("args");
        if runtime == Runtime::Lua {
            for item in [&mode, &args].into_iter().flatten().filter(|item| !item.is_off()) {
                item.warning("has no effect on runtime lua");
            }
        }
        let mode = mode.and_then(|item| item.choice(MODES)).unwrap_or(ExecMode::Once);
        let args = args.map(|item| texts(&item)).unwrap_or_default();
        let timeout = match section.item("timeout_ms") {
            None => timeout,
            Some(item) => item.integer(MILLIS).map_or(timeout, Duration::from_millis),
        };
        let usual = section.boolean("default", true);
        section.finish();
        let name = name.unwrap_or_default().to_owned();
        let kind = match (&path_item, path) {
            (Some(item), Some(path)) if self.enabled => match runtime {
                Runtime::Lua => script_at(item, path, self.settings.memory_limit, files),
                Runtime::Exec => executable_at(item, path, files).map(|path| {
                    let name = name.clone();
                    PluginKind::Exec(Arc::new(ExecSettings { name, path, args, mode }))
                }),
            },
            _ => None,
        };
        self.add(name, timeout, usual, kind);
    }

    /// Reads an entry of the older form, which is a path.
    fn script(&mut self, item: &Item<'_>, timeout: Duration, files: &mut Files<'_>) {
        let Some(path) = file_path(item) else {
            return;
        };
        let name = self.name_of_file(item, path).to_owned();
        let kind = self
            .enabled
            .then(|| script_at(item, path, self.settings.memory_limit, files))
            .flatten();
        self.add(name, timeout, true, kind);
    }

    /// The name of a plugin that has none of its own.
    fn name_of_file<'p>(&self, item: &Item<'_>, path: &'p str) -> &'p str {
        let name = path.rsplit('/').next().unwrap_or(path);
        if self.names.iter().any(|known| known == name) {
            let message = format!("makes {name:?} the name of two plugins");
            item.error(&message, "another file name, or a name of its own");
        }
        name
    }

    /// Takes in a plugin; without a kind there was an error, or plugins are off.
    fn add(&mut self, name: String, timeout: Duration, usual: bool, kind: Option<PluginKind>) {
        self.names.push(name.clone());
        if let Some(kind) = kind {
            if usual {
                self.usual.push(self.settings.plugins.len());
            }
            self.settings.plugins.push(Plugin { name, timeout, kind });
        }
    }
}

/// Reads the path of a file.
fn file_path<'v>(item: &Item<'v>) -> Option<&'v str> {
    let path = item.word(PATH)?;
    if path.ends_with('/') { item.wrong_because("is a folder", PATH) } else { Some(path) }
}

/// Reads and compiles a script.
fn script_at(
    item: &Item<'_>,
    path: &str,
    memory: usize,
    files: &mut Files<'_>,
) -> Option<PluginKind> {
    const EXPECTED: &str = "a script with a function handle(question)";
    let path = resolve(files.folder, path);
    files.read.push(path.clone());
    let text = match files.host.read(&path) {
        Ok(text) => text,
        Err(error) => {
            let message = format!("cannot be read at {path:?}: {error}");
            return item.wrong_because(&message, "a readable file");
        }
    };
    match Program::compile(&path, &text, memory) {
        Ok(program) => Some(PluginKind::Lua(Arc::new(program))),
        Err(error) => {
            item.report.error_in(&item.path, (path, error.line), error.message, EXPECTED);
            None
        }
    }
}

/// Looks for an executable.
fn executable_at(item: &Item<'_>, path: &str, files: &Files<'_>) -> Option<String> {
    let path = resolve(files.folder, path);
    match files.host.executable(&path) {
        Ok(()) => Some(path),
        Err(error) => {
            let message = format!("cannot be started at {path:?}: {error}");
            item.wrong_because(&message, "a file that may be executed")
        }
    }
}

/// Reads a list of texts, which may be empty ones.
fn texts(item: &Item<'_>) -> Vec<String> {
    const EXPECTED: &str = "a text without a NUL character";
    let mut texts = Vec::new();
    for entry in item.list("texts") {
        match entry.text() {
            Some(text) if text.contains('\0') => entry.error("is no argument", EXPECTED),
            Some(text) => texts.push(text.to_owned()),
            None => {}
        }
    }
    texts
}
