//! `plugins`: not in this build, but what is configured about them is checked while they are off.

use super::super::reader::{Item, Section};
use super::settings::MILLIS;

const PATH: &str = "the path of a file";

/// Reads the section; switching plugins on is refused.
pub(super) fn read(mut section: Section<'_>) {
    if let Some(item) = section.item("enabled")
        && item.boolean() == Some(true)
    {
        item.unavailable("false");
    }
    section.millis("timeout_ms", MILLIS, 20);
    section.choice("on_error", &[("servfail", ()), ("forward", ()), ("block", ())], ());
    section.integer("memory_limit_mb", 1..=1_024, 16_u64);
    section.integer("disable_after_failures", 0..=1_000_000, 0_u64);
    let entries = section.list("entries", "plugins");
    let scripts = section.list("scripts", "paths");
    if let (Some(_), Some(script)) = (entries.first(), scripts.first()) {
        script.error("stands beside plugins.entries", "one of both lists");
    }
    let mut names = Vec::new();
    for item in entries {
        entry(item, &mut names);
    }
    for script in scripts {
        script.word(PATH);
    }
    section.finish();
}

/// Reads an entry, whose name is that of its file unless it has one.
fn entry<'v>(item: Item<'v>, names: &mut Vec<&'v str>) {
    const RUNTIMES: &[(&str, ())] = &[("lua", ()), ("go_exec", ()), ("exec", ())];
    let mut section = item.clone().section();
    let path = section.required("path", PATH).and_then(|path| path.word(PATH));
    let given = section.item("name");
    let name = match &given {
        Some(name) => name.word("a name"),
        None => path.map(|path| path.rsplit('/').next().unwrap_or(path)),
    };
    if let Some(name) = name {
        if names.contains(&name) {
            let message = format!("{name:?} is the name of another plugin");
            section.error("name", message, "a unique name");
        }
        names.push(name);
    }
    section.choice("runtime", RUNTIMES, ());
    section.choice("mode", &[("once", ()), ("worker", ())], ());
    section.millis("timeout_ms", MILLIS, 20);
    for arg in section.list("args", "texts") {
        arg.text();
    }
    section.finish();
}
