//! Plugins: what they are asked, what they may decide, and how they fail.
//!
//! The words are the same for scripts and for executables; `decode` turns either's result into a
//! [`PolicyVerdict`], and never turns an error into "forward".

mod decode;
mod lua;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

pub use decode::{decode_json, decode_line, question_json};
pub use lua::{LuaLimits, LuaVm, Program, ScriptError};

use crate::time::Duration;
use crate::transport::Transport;
use crate::wire::{Name, RecordType};

/// The plugins of a configuration, and what holds for all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginSettings {
    /// All of them, in the order of the configuration.
    pub plugins: Vec<Plugin>,
    /// What becomes of a question when one fails.
    pub on_error: OnError,
    /// Octets that the VM of one script may allocate.
    pub memory_limit: usize,
    /// Failures in a row after which a plugin is left out for a while; 0 means never.
    pub disable_after: u32,
}

impl Default for PluginSettings {
    fn default() -> Self {
        Self {
            plugins: Vec::new(),
            on_error: OnError::ServFail,
            memory_limit: 16 << 20,
            disable_after: 0,
        }
    }
}

/// One plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plugin {
    /// Its unique name.
    pub name: String,
    /// How long one call may take.
    pub timeout: Duration,
    /// What it is.
    pub kind: PluginKind,
}

/// What a plugin is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PluginKind {
    /// A script.
    Lua(Arc<Program>),
    /// An executable.
    Exec(Arc<ExecSettings>),
}

/// An executable that decides.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ExecSettings {
    /// Name of the plugin, for messages.
    pub name: String,
    /// The file.
    pub path: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// How it is run.
    pub mode: ExecMode,
}

/// How an executable is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExecMode {
    /// Once for each question: one JSON object in, one out.
    Once,
    /// Kept running: a line of JSON for each question and each answer, which carry an id.
    Worker,
}

/// What becomes of a question when a plugin fails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnError {
    /// SERVFAIL.
    #[default]
    ServFail,
    /// It goes on as if the plugin had not been there.
    Forward,
    /// As if the plugin had said BLOCK.
    Block,
}

/// What a plugin is asked.
#[derive(Debug, Clone, Copy)]
pub struct PolicyQuestion<'a> {
    /// The name in lower-cased wire form.
    pub name: &'a [u8],
    /// The type.
    pub record_type: RecordType,
    /// Who asks; not told while the cache stands before the policy.
    pub client: Option<IpAddr>,
    /// Over what; not told either then.
    pub transport: Option<Transport>,
}

/// What a plugin decided.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyVerdict {
    /// What becomes of the question.
    pub action: PolicyAction,
    /// Who is to be asked, if it is forwarded.
    pub choice: Option<Choice>,
    /// Bounds of the answer's TTLs.
    pub ttl: TtlLimits,
}

/// What becomes of a question.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum PolicyAction {
    /// It goes on.
    #[default]
    Forward,
    /// It is blocked, in the way of the client's blacklist.
    Block,
    /// It goes on with another name, and perhaps another type.
    Rewrite {
        /// The name, lower-cased.
        name: Name,
        /// The type, if another one.
        record_type: Option<RecordType>,
    },
    /// It is answered with addresses.
    LocalData {
        /// Seconds that the answer may be remembered.
        ttl: u32,
        /// For A and ANY.
        v4: Vec<Ipv4Addr>,
        /// For AAAA and ANY.
        v6: Vec<Ipv6Addr>,
    },
    /// It gets no answer.
    Drop,
    /// Over UDP its answer is empty with TC, so that the client asks again over TCP; over other
    /// transports it goes on.
    Truncate,
}

/// Whom a plugin wants to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// The upstream of this name.
    Upstream(Box<str>),
    /// The upstreams of the pool of this name.
    Pool(Box<str>),
}

/// Bounds of an answer's TTLs in seconds, beside those of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TtlLimits {
    /// Less becomes this.
    pub min: u32,
    /// More becomes this.
    pub max: u32,
}

impl TtlLimits {
    /// A TTL within them.
    #[must_use]
    pub const fn clamp(self, ttl: u32) -> u32 {
        let raised = if ttl < self.min { self.min } else { ttl };
        if raised > self.max { self.max } else { raised }
    }

    /// Whether they bound nothing.
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.min == 0 && self.max == u32::MAX
    }
}

impl Default for TtlLimits {
    fn default() -> Self {
        Self { min: 0, max: u32::MAX }
    }
}

/// Why a plugin has no verdict.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// It took longer than it may.
    #[error("took too long")]
    Timeout,
    /// It wanted more memory than it may have.
    #[error("out of memory")]
    Memory,
    /// The script failed; its own words.
    #[error("{0}")]
    Script(String),
    /// The result is none that a plugin may have.
    #[error("result: {0}")]
    Result(String),
    /// The executable could not be started, or ended other than with code 0.
    #[error("process {0}")]
    Process(String),
    /// Its output is longer than it may be.
    #[error("too much output")]
    Output,
    /// All places for its calls are taken.
    #[error("too many calls at once")]
    Busy,
    /// It failed so often that it is left out for a while.
    #[error("disabled after failures")]
    Disabled,
}
