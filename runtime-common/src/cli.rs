//! The command line of both daemons.
//!
//! Owns its shape only. Options may be written with one dash or two (`-config PATH`), as the
//! original accepted them; they are normalised before the parser sees them. What the daemon tells
//! itself when it starts a plugin never gets here: see [`launcher`](crate::process::launcher).

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, Command, value_parser};

/// What the command line asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// The configuration file; the embedded default without it.
    pub config: Option<PathBuf>,
}

impl Options {
    /// Reads the arguments, the first of which is the program's own name.
    ///
    /// # Errors
    /// Wrong usage, but also `--help` and `--version`: clap's error knows its text, its stream and
    /// the exit code.
    pub fn parse(
        daemon: &'static str,
        arguments: impl IntoIterator<Item = OsString>,
    ) -> Result<Self, clap::Error> {
        let mut matches = command(daemon).try_get_matches_from(normalised(arguments))?;
        Ok(Self { config: matches.remove_one("config") })
    }
}

fn command(daemon: &'static str) -> Command {
    let config = Arg::new("config")
        .long("config")
        .value_name("PATH")
        .value_parser(value_parser!(PathBuf))
        .help("Configuration file (.lua); without it, the embedded default");
    Command::new(daemon)
        .bin_name(daemon)
        .version(env!("CARGO_PKG_VERSION"))
        .about("A forwarding DNS resolver and load balancer")
        .arg(config)
}

/// `-config` becomes `--config`; `-h`, `--config` and all that follows `--` stay.
fn normalised(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut verbatim = false;
    arguments
        .into_iter()
        .map(|argument| {
            verbatim |= argument == "--";
            let bytes = argument.as_encoded_bytes();
            let long = bytes.len() > 2 && bytes[0] == b'-' && bytes[1].is_ascii_alphabetic();
            if !long || verbatim {
                return argument;
            }
            let mut doubled = OsString::from("-");
            doubled.push(argument);
            doubled
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Options, clap::Error> {
        let program = std::iter::once("balancedns");
        Options::parse("balancedns", program.chain(arguments.iter().copied()).map(OsString::from))
    }

    #[test]
    fn one_dash_or_two_mean_the_same() {
        let expected = Options { config: Some(PathBuf::from("/etc/x.lua")) };
        for arguments in [
            &["-config", "/etc/x.lua"][..],
            &["--config", "/etc/x.lua"],
            &["-config=/etc/x.lua"],
            &["--config=/etc/x.lua"],
        ] {
            assert_eq!(parse(arguments).expect("valid"), expected, "{arguments:?}");
        }
        assert_eq!(parse(&[]).expect("valid"), Options::default());
    }

    #[test]
    fn the_version_line_names_the_daemon() {
        for argument in ["--version", "-version", "-V"] {
            let shown = parse(&[argument]).expect_err("is not a run");
            assert_eq!(shown.exit_code(), 0);
            let line = concat!("balancedns ", env!("CARGO_PKG_VERSION"), "\n");
            assert_eq!(shown.to_string(), line);
        }
    }

    #[test]
    fn unknown_options_are_refused() {
        assert_ne!(parse(&["-confg", "x"]).expect_err("unknown").exit_code(), 0);
        assert_ne!(parse(&["stray"]).expect_err("unknown").exit_code(), 0);
        assert_ne!(parse(&["-config"]).expect_err("needs a value").exit_code(), 0);
    }
}
