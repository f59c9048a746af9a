//! A configuration from its file on this machine to what core makes of it.

use std::path::Path;

use balancedns_core::config::{self, Host, Loaded, Source, Warning};

use crate::host;

/// Runs and validates a configuration.
///
/// # Errors
/// Everything that is wrong with it, a line each.
pub(crate) fn evaluate(source: &Source, host: &dyn Host) -> Result<Loaded, Vec<String>> {
    config::load(source, host).map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

/// Tells the operator what a configuration says in vain.
pub(crate) fn log_warning(warning: &Warning) {
    tracing::warn!(event = "config", "{warning}");
}

/// The text of a configuration file, or of the built-in one.
///
/// # Errors
/// Why it cannot be read, as a line for the operator.
pub(crate) fn source(path: Option<&Path>) -> Result<Source, String> {
    let Some(path) = path else {
        return Ok(Source {
            name: config::DEFAULT_NAME.to_owned(),
            folder: String::new(),
            text: config::DEFAULT.to_owned(),
        });
    };
    let name = path.display().to_string();
    if !path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("lua")) {
        return Err(format!("{name}: not a .lua file"));
    }
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("{name}: {}", host::explained(&error)))?;
    let folder = path.parent().map(|folder| folder.display().to_string()).unwrap_or_default();
    Ok(Source { name, folder, text })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::host::Machine;

    #[test]
    fn a_file_of_another_kind_or_none_is_a_line_for_the_operator() {
        let error = |path: &str| source(Some(Path::new(path))).expect_err("unusable");
        assert_eq!(error("/nonexistent/a.lua"), "/nonexistent/a.lua: no such file");
        assert_eq!(error("/nonexistent/a.toml"), "/nonexistent/a.toml: not a .lua file");
        assert_eq!(error("/nonexistent/a.LUA"), "/nonexistent/a.LUA: no such file");
    }

    #[test]
    fn the_built_in_configuration_is_valid() {
        let built_in = source(None).expect("built in");
        let loaded = evaluate(&built_in, &Machine::new(Clock::start())).expect("valid");
        assert!(!loaded.snapshot.upstreams.is_empty());
        assert!(loaded.uses_system_resolvers);
    }
}
