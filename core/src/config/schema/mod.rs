//! The table of the configuration: every key, its default, its rule.
//!
//! Keys whose capability is not in this build are known too ([`later`]): their values are checked,
//! and refused if they would switch the capability on.

mod address;
mod blacklist;
mod encrypted;
mod groups;
mod later;
mod listen;
mod local_records;
mod plugins;
mod policy;
mod pools;
mod settings;
mod upstreams;

use std::net::SocketAddr;

use self::plugins::Files;
use self::upstreams::Upstreams;
use super::error::{Path, Report};
use super::reader::{Item, Section};
use super::snapshot::{ListSettings, ListenSocket, Snapshot, Stage, SubnetPolicy};
use super::value::Value;
use super::{Host, is_listener};
use crate::policy::Blocking;
use crate::upstream::Routes;

/// What is expected where a name is given.
const NAME: &str = "a name of up to 100 printable characters";
/// Characters of a name: it is shown in logs and metrics.
const NAME_CHARS: usize = 100;

/// What was read, with defaults where something was wrong.
pub(super) struct Read {
    pub(super) snapshot: Snapshot,
    /// The files that were read.
    pub(super) files: Vec<String>,
    /// The system's name servers became a part of the snapshot.
    pub(super) asks_system: bool,
}

/// Reads the whole table.
pub(super) fn read(value: &Value, report: &Report, host: &dyn Host, folder: &str) -> Read {
    let mut top = Section::top(value, report);
    let mut read = Vec::new();
    let mut files = Files { host, folder, read: &mut read };
    let listen = listen::read(top.section("listen"), host, folder);
    let logging = settings::logging(top.section("logging"));
    let acl = policy::acl(&mut top);
    let mut routing = settings::routing(top.section("routing"), &listen.sockets, host);
    let pools = pools::read(&mut top);
    let upstreams = upstreams::read(&mut top, &listen.sockets, &routing.settings, &pools, &files);
    pools.check_members(&upstreams, report);
    let routes = Routes::new(&upstreams.zones);
    let list_servers = routing.settings.bootstrap.clone();
    let asks_system =
        bootstrap(&upstreams, &mut routing.settings.bootstrap, &listen.sockets, host, report);
    let mut lists = blacklist::Lists::new(host, folder);
    let mut section = top.section("blacklist");
    let list_settings =
        ListSettings { cache: blacklist::cache_dir(&mut section, folder), bootstrap: list_servers };
    let mut block_sets = vec![blacklist::blacklist(section, &mut lists)];
    let hosts = policy::hosts(top.section("hosts"), &mut files);
    let local_records = local_records::read(&mut top, routing.settings.rewrite_hops);
    let cache = settings::cache(top.section("cache"));
    let control = settings::control(top.section("control"));
    let plugins = plugins::read(top.section("plugins"), &mut files);
    let parts = groups::Parts {
        pools: &pools,
        plugins: &plugins,
        chain: &routing.chain,
        cache_enabled: cache.enabled,
        block_sets: &mut block_sets,
    };
    let groups = groups::read(&mut top, parts, |section| blacklist::blacklist(section, &mut lists));
    let rebinding = policy::rebinding(top.section("rebinding"), &routes);
    later::check(&mut top, later::TOP);
    top.finish();
    let at_top = |key| Path::default().key(key);
    let unreached = [
        (hosts.hosts.is_some(), at_top("hosts").key("file"), Stage::Hosts, "hosts"),
        (!local_records.is_empty(), at_top("local_records"), Stage::Hosts, "hosts"),
        (plugins.enabled, at_top("plugins").key("enabled"), Stage::Policy, "lua_policy"),
    ];
    warn_of_unreached(&unreached, &routing.chain, report);
    let snapshot = Snapshot {
        generation: 1,
        listen,
        logging,
        acl,
        chain: routing.chain,
        groups: groups.into(),
        blocking: Blocking::new(block_sets, 1).into(),
        lists: list_settings,
        local_records: local_records.into(),
        hosts_file: hosts.hosts.as_ref().map(|(path, _)| path.clone()),
        hosts: hosts.hosts.map(|(_, hosts)| hosts.into()),
        hosts_fallthrough: hosts.fallthrough,
        plugins: plugins.settings.into(),
        rebinding: rebinding.map(Into::into),
        pools: pools.names,
        tells_client_subnets: upstreams
            .settings
            .iter()
            .any(|upstream| upstream.client_subnet != SubnetPolicy::Off),
        upstreams: upstreams.settings,
        routes,
        routing: routing.settings,
        cache,
        control,
    };
    Read { snapshot, files: read, asks_system }
}

/// Warns of what is there, by its path, and decided about in a stage that no question passes.
fn warn_of_unreached(settings: &[(bool, Path, Stage, &str)], chain: &[Stage], report: &Report) {
    for (is_there, path, stage, name) in settings {
        if *is_there && !chain.contains(stage) {
            report.warning(path, format!("has no effect without {name:?} in routing.chain"));
        }
    }
}

/// Keeps those name servers that host names are looked up at; whether they are the system's.
fn bootstrap(
    upstreams: &Upstreams,
    servers: &mut Vec<SocketAddr>,
    listeners: &[ListenSocket],
    host: &dyn Host,
    report: &Report,
) -> bool {
    if !upstreams.have_host_names() {
        servers.clear(); // nothing to ask them
        return false;
    }
    if !servers.is_empty() {
        return false;
    }
    *servers = host.system_resolvers();
    servers.retain(|server| !is_listener(*server, listeners, host));
    if servers.is_empty() {
        upstreams.report_no_bootstrap(report);
    }
    true
}

/// Reads a name, which must be another one than those known; `of` is what has names of this kind.
fn unique_name<'v>(item: &Item<'v>, of: &str, known: &[String]) -> Option<&'v str> {
    let name = item.word(NAME)?;
    if name.chars().count() > NAME_CHARS || name.chars().any(char::is_control) {
        return item.wrong_because("is wrong", NAME);
    }
    if known.iter().any(|known| known == name) {
        item.error(&format!("is the name of another {of}"), "a unique name");
    }
    Some(name)
}
