//! What is decided about a question before anybody is asked: who may ask, which names are blocked,
//! which ones are answered from local records and the hosts file, which ones are special, what tells
//! clients of our encrypted listeners, what plugins say; and the reasons why a query ended as it did.
//!
//! All but plugins are pure look-ups in tables that were built when the configuration was read or are
//! fixed; none of them fails, and only what local records have is collected on the heap. Names are
//! looked up in lower-cased uncompressed wire form.

mod acl;
mod blocking;
mod blocklist;
mod discovery;
mod groups;
mod hosts;
mod list_format;
mod local_records;
mod plugin;
mod reason;
mod rebinding;
mod special;

pub use acl::{Acl, fold};
pub use blocking::{
    BLOCK_SETS, BlockAnswer, BlockMode, BlockSet, BlockSetId, Blocked, Blocking, ListSource,
    ListUse, NameList,
};
pub use blocklist::{BlockKind, BlockMatch, BlockPatternError, Blocklist, BlocklistBuilder};
pub use discovery::{DISCOVERY_NAME, DISCOVERY_TTL_SECONDS, Discovery, FIREFOX_CANARY};
pub use groups::{Group, Groups};
pub use hosts::{Hosts, HostsAnswer, HostsProblem, HostsWarning};
pub use list_format::{ListReader, ListReport, Skipped, SkippedLine};
pub use local_records::{LocalAnswer, LocalRecordError, LocalRecords, LocalRecordsBuilder};
pub use plugin::{
    Choice, ExecMode, ExecSettings, LuaLimits, LuaVm, OnError, Plugin, PluginKind, PluginSettings,
    PolicyAction, PolicyError, PolicyQuestion, PolicyVerdict, Program, ScriptError, TtlLimits,
    decode_json, decode_line, question_json,
};
pub use reason::Reason;
pub use rebinding::Rebinding;
pub use special::{Special, SpecialContent, special};
