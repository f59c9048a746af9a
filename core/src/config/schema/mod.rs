//! The table of the configuration: every key, its default, its rule.
//!
//! Keys whose capability is not in this build are known too ([`later`]): their values are checked,
//! and refused if they would switch the capability on.

mod address;
mod encrypted;
mod later;
mod listen;
mod plugins;
mod policy;
mod settings;
mod upstreams;

use std::sync::Arc;

use super::error::{Path, Report};
use super::reader::Section;
use super::snapshot::{Snapshot, Stage, SubnetPolicy};
use super::value::Value;
use super::{Host, is_listener};
use crate::upstream::Routes;

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
    let mut files = Vec::new();
    let listen = listen::read(top.section("listen"), host, folder);
    let logging = settings::logging(top.section("logging"));
    let acl = policy::acl(&mut top);
    let mut routing = settings::routing(top.section("routing"), &listen.sockets, host);
    let upstreams = upstreams::read(&mut top, &listen.sockets, &routing.settings, host, folder);
    let looks_up = upstreams.have_host_names();
    let asks_system = looks_up && routing.settings.bootstrap.is_empty();
    if asks_system {
        let mut servers = host.system_resolvers();
        servers.retain(|server| !is_listener(*server, &listen.sockets, host));
        if servers.is_empty() {
            upstreams.report_no_bootstrap(report);
        }
        routing.settings.bootstrap = servers;
    }
    if !looks_up {
        routing.settings.bootstrap.clear(); // nothing to ask them
    }
    let blocking = policy::blacklist(top.section("blacklist"));
    let hosts = policy::hosts(top.section("hosts"), host, folder, &mut files);
    let cache = settings::cache(top.section("cache"));
    let control = settings::control(top.section("control"));
    plugins::read(top.section("plugins"));
    later::check(&mut top, later::TOP);
    top.finish();
    if hosts.is_some() && !routing.chain.contains(&Stage::Hosts) {
        report.warning(
            &Path::default().key("hosts").key("file"),
            "has no effect without \"hosts\" in routing.chain".to_owned(),
        );
    }
    let snapshot = Snapshot {
        generation: 1,
        listen,
        logging,
        acl,
        chain: routing.chain,
        groups: Arc::default(),
        blocking: blocking.into(),
        local_records: Arc::default(),
        hosts: hosts.map(Into::into),
        hosts_fallthrough: false,
        plugins: Arc::default(),
        rebinding: None,
        pools: Vec::new(),
        tells_client_subnets: upstreams
            .settings
            .iter()
            .any(|upstream| upstream.client_subnet != SubnetPolicy::Off),
        upstreams: upstreams.settings,
        routes: Routes::new(&upstreams.zones),
        routing: routing.settings,
        cache,
        control,
    };
    Read { snapshot, files, asks_system }
}
