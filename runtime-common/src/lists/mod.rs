//! Lists that come from files and URLs, and the hosts file: read again when they change, fetched when
//! they are due, kept on disk.
//!
//! Decides when that is, and what becomes of a list that cannot be had: the last good one stays.
//! Everything that takes its time is done by threads in the background (`jobs`), one for files and
//! one for URLs; what they have found is handed to the [control thread](crate::control), which tells
//! the workers. No worker reads a list.

mod content;
mod fetch;
mod folder;
mod jobs;
mod lookup;
mod schedule;
#[cfg(test)]
mod server;
mod store;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use balancedns_core::config::{Host, Snapshot};
use balancedns_core::exposition::ListReading;
use balancedns_core::policy::{Hosts, ListSource, ListUse, NameList};
use balancedns_core::rng::Stream;
use balancedns_core::time::{Duration, Instant};

use self::jobs::{Content, Round, ToFetch, ToRead};
use self::schedule::Schedule;
use self::store::{Store, Version};
use crate::clock::unix_now;
use crate::file_watch::FileWatch;
use crate::mailbox::Sender;

use content::called;
pub(crate) use content::read_list;
pub(crate) use jobs::Report;

/// Which stream of a seed the waits come from.
const WAITS: u64 = 0;

/// All lists of a configuration that come from elsewhere.
#[derive(Debug)]
pub struct Lists {
    known: Vec<Known>,
    hosts: Option<HostsFile>,
    store: Option<Store>,
    random: Stream,
    /// A thread is at it.
    is_reading: bool,
    is_fetching: bool,
}

/// One list.
#[derive(Debug)]
struct Known {
    source: ListSource,
    kind: Kind,
    /// What is in use of it.
    entries: usize,
    /// When that was read or fetched, or confirmed; since 1970 in UTC.
    updated: Option<Duration>,
    failures: u64,
    /// What was said last against it: nobody has to read it twice.
    complaint: Option<String>,
}

#[derive(Debug)]
enum Kind {
    File(FileWatch),
    Url { schedule: Schedule, version: Option<Version> },
}

#[derive(Debug)]
struct HostsFile {
    path: String,
    ttl: u32,
    watch: FileWatch,
}

/// What has become different.
#[derive(Debug)]
pub(crate) enum Change {
    /// The content of a list.
    List(ListSource, Arc<NameList>),
    /// The content of the hosts file.
    Hosts(Arc<Hosts>),
}

impl Lists {
    /// Of a configuration whose files have just been read. What was fetched before is put in its
    /// place, so that a start needs no network.
    #[must_use]
    pub fn new(snapshot: &mut Snapshot, host: &dyn Host, seed: [u8; 32], now: Instant) -> Self {
        let uses = snapshot.blocking.sources();
        let fetches = uses.iter().any(|list| matches!(list.source, ListSource::Url(_)));
        let folder = folder::of_copies(&snapshot.lists.cache, host).filter(|_| fetches);
        if fetches && folder.is_none() {
            tracing::warn!(
                event = "lists_not_kept",
                "no copies of lists are kept: each start begins without them; name a folder in \
                 blacklist.cache_dir"
            );
        }
        let random = Stream::new(seed, WAITS);
        let store = folder.map(Store::new);
        if let Some(store) = &store {
            let folder = store.folder().display();
            tracing::info!(event = "lists_kept", "copies of lists are kept in {folder}");
        }
        let mut lists = Self {
            known: Vec::new(),
            hosts: None,
            store,
            random,
            is_reading: false,
            is_fetching: false,
        };
        for list in uses {
            let known = match &list.source {
                ListSource::File(path) => lists.file(path, snapshot, now),
                ListSource::Url(url) => lists.url(url, &list, snapshot, now),
            };
            lists.known.push(known);
        }
        lists.watch_hosts(snapshot, now);
        lists
    }

    fn file(&self, path: &str, snapshot: &Snapshot, now: Instant) -> Known {
        let source = ListSource::File(path.to_owned());
        let entries = snapshot.blocking.list(&source).map_or(0, |list| list.report.entries);
        tracing::info!(event = "list_read", "{path}: {entries} entries");
        let watch = FileWatch::new(vec![path.to_owned()], now);
        let updated = Some(unix_now());
        Known { source, kind: Kind::File(watch), entries, updated, failures: 0, complaint: None }
    }

    /// With its copy, if there is one that can be used.
    fn url(&self, url: &str, list: &ListUse, snapshot: &mut Snapshot, now: Instant) -> Known {
        let source = ListSource::Url(url.to_owned());
        let (mut version, mut entries, mut age) = (None, 0, None);
        match self.store.as_ref().map(|store| store.load(url)) {
            Some(Ok(Some(kept))) => {
                let parsed = Arc::new(content::parse(&source, &kept.octets));
                entries = parsed.report.entries;
                snapshot.blocking = snapshot.blocking.with_list(&source, &parsed).into();
                version = Some(kept.version);
                // A copy from the future is of a clock that was wrong.
                age = SystemTime::now().duration_since(kept.fetched).ok();
            }
            Some(Ok(None)) | None => tracing::warn!(
                event = "list_missing",
                "{}: there is no copy of it: nothing in it is blocked until it is fetched",
                called(&source)
            ),
            Some(Err(error)) => tracing::warn!(
                event = "list_missing",
                "{}: its copy cannot be used, nothing in it is blocked until it is fetched: {error}",
                called(&source)
            ),
        }
        let updated = age.map(|age| unix_now().saturating_sub(age));
        let kind = Kind::Url { schedule: Schedule::new(list.refresh, age, now), version };
        Known { source, kind, entries, updated, failures: 0, complaint: None }
    }

    fn watch_hosts(&mut self, snapshot: &Snapshot, now: Instant) {
        let named = snapshot.hosts_file.as_ref().zip(snapshot.hosts.as_ref());
        self.hosts = named.map(|(path, hosts)| {
            let watch = FileWatch::new(vec![path.clone()], now);
            HostsFile { path: path.clone(), ttl: hosts.ttl(), watch }
        });
    }

    /// When to [look](Self::look) again.
    pub(crate) fn next_look(&self, may_fetch: bool) -> Option<Instant> {
        let looks = self.known.iter().filter_map(|known| match &known.kind {
            Kind::File(watch) => (!self.is_reading).then(|| watch.next_look()),
            Kind::Url { schedule, .. } => (may_fetch && !self.is_fetching).then(|| schedule.due()),
        });
        let hosts = self.hosts.as_ref().filter(|_| !self.is_reading);
        looks.chain(hosts.map(|hosts| hosts.watch.next_look())).min()
    }

    /// Looks at what it is time to look at, and sets threads to work on it. What they find comes as
    /// [`Report`]s. Names of servers are looked up at `servers`.
    pub(crate) fn look<T>(
        &mut self,
        now: Instant,
        may_fetch: bool,
        servers: impl FnOnce() -> Vec<SocketAddr>,
        teller: &Sender<T>,
    ) where
        T: From<Report> + Send + 'static,
    {
        if !self.is_reading {
            let files = self.changed_files(now);
            if !files.lists.is_empty() || files.hosts.is_some() {
                self.is_reading = started(jobs::read(files, teller.clone()));
                if !self.is_reading {
                    self.tell_files_again();
                }
            }
        }
        if may_fetch && !self.is_fetching {
            let due = self.due_lists(now);
            if !due.is_empty() {
                let store = self.store.clone();
                let spawned = jobs::fetch(due, servers(), store, teller.clone());
                self.is_fetching = started(spawned);
            }
        }
    }

    fn changed_files(&mut self, now: Instant) -> ToRead {
        let mut files = ToRead::default();
        for known in &mut self.known {
            if let (Kind::File(watch), ListSource::File(path)) = (&mut known.kind, &known.source)
                && watch.has_changed(now)
            {
                files.lists.push(path.clone());
            }
        }
        if let Some(hosts) = &mut self.hosts
            && hosts.watch.has_changed(now)
        {
            files.hosts = Some((hosts.path.clone(), hosts.ttl));
        }
        files
    }

    fn tell_files_again(&mut self) {
        let lists = self.known.iter_mut().filter_map(|known| match &mut known.kind {
            Kind::File(watch) => Some(watch),
            Kind::Url { .. } => None,
        });
        let hosts = self.hosts.as_mut().map(|hosts| &mut hosts.watch);
        lists.chain(hosts).for_each(FileWatch::tell_again);
    }

    /// What is to be fetched now.
    fn due_lists(&mut self, now: Instant) -> Vec<ToFetch> {
        let mut due = Vec::new();
        for known in &mut self.known {
            if let (Kind::Url { schedule, version }, ListSource::Url(url)) =
                (&mut known.kind, &known.source)
                && schedule.due() <= now
            {
                schedule.begun(now);
                let (url, version) = (url.clone(), version.clone());
                due.push(ToFetch { url, version, entries: known.entries });
            }
        }
        due
    }

    /// Takes in what a thread tells.
    pub(crate) fn handle(&mut self, now: Instant, report: Report) -> Option<Change> {
        match report {
            Report::List(source, Ok(content)) => self.succeeded(now, &source, content),
            Report::List(source, Err(error)) => {
                self.failed(now, &source, error);
                None
            }
            Report::Hosts(Ok(hosts)) => {
                let path = self.hosts.as_ref().map(|hosts| hosts.path.as_str());
                let path = path.unwrap_or_default();
                tracing::info!(event = "hosts_read", "{path}: read again, for it has changed");
                Some(Change::Hosts(hosts))
            }
            Report::Hosts(Err(error)) => {
                let path = self.hosts.as_ref().map(|hosts| hosts.path.as_str());
                let path = path.unwrap_or_default();
                tracing::warn!(
                    event = "hosts_kept",
                    "{path}: cannot be read: {error}; what was read before stays in use"
                );
                None
            }
            Report::Over(Round::Files) => {
                self.is_reading = false;
                None
            }
            Report::Over(Round::Urls) => {
                self.is_fetching = false;
                None
            }
        }
    }

    fn succeeded(&mut self, now: Instant, source: &ListSource, content: Content) -> Option<Change> {
        let known = self.known.iter_mut().find(|known| known.source == *source)?;
        known.updated = Some(unix_now());
        if known.complaint.take().is_some() {
            tracing::info!(event = "list_back", "{}: is to be had again", called(source));
        }
        let change = match content {
            Content::Same => None,
            Content::Other(list, found) => {
                known.entries = list.report.entries;
                if let Kind::Url { version, .. } = &mut known.kind {
                    *version = Some(found);
                }
                Some(Change::List(source.clone(), list))
            }
        };
        if let Kind::Url { schedule, .. } = &mut known.kind {
            schedule.succeeded(now, &mut self.random);
        }
        change
    }

    fn failed(&mut self, now: Instant, source: &ListSource, error: String) {
        let Some(known) = self.known.iter_mut().find(|known| known.source == *source) else {
            return;
        };
        known.failures += 1;
        if let Kind::Url { schedule, .. } = &mut known.kind {
            schedule.failed(now, &mut self.random);
        }
        if known.complaint.as_ref() == Some(&error) {
            return;
        }
        let (name, entries) = (called(source), known.entries);
        tracing::warn!(event = "list_kept", "{name}: {error}; {entries} entries stay in use");
        known.complaint = Some(error);
    }

    /// Another configuration was made from the same files: `next` gets what `current` has of them,
    /// and what it needs besides is looked after from now on.
    pub(crate) fn carry_over(&mut self, current: &Snapshot, next: &mut Snapshot, now: Instant) {
        let mut blocking = (*next.blocking).clone();
        for list in next.blocking.sources() {
            if let Some(read) = current.blocking.list(&list.source) {
                blocking = blocking.with_list(&list.source, read);
            }
        }
        next.blocking = blocking.succeeding(&current.blocking).into();
        if next.hosts_file == current.hosts_file {
            next.hosts.clone_from(&current.hosts);
        } else {
            self.watch_hosts(next, now);
        }
        let mut before = std::mem::take(&mut self.known);
        for list in next.blocking.sources() {
            let place = before.iter().position(|known| known.source == list.source);
            let mut known = match (place, &list.source) {
                (Some(place), _) => before.swap_remove(place),
                (None, ListSource::File(path)) => self.file(path, next, now),
                (None, ListSource::Url(url)) => self.url(url, &list, next, now),
            };
            if let Kind::Url { schedule, .. } = &mut known.kind {
                schedule.set_refresh(list.refresh, now);
            }
            self.known.push(known);
        }
    }

    /// What is shown of them among the metrics.
    #[must_use]
    pub fn readings(&self) -> Vec<ListReading> {
        let names: Vec<String> = self.known.iter().map(|known| called(&known.source)).collect();
        let readings = self.known.iter().enumerate().map(|(place, known)| {
            // Two URLs may differ in what is better not shown.
            let alike = names.iter().take(place).filter(|name| **name == names[place]).count();
            let more = if alike > 0 { format!(" ({})", alike + 1) } else { String::new() };
            ListReading {
                list: format!("{}{more}", names[place]),
                entries: known.entries,
                updated: known.updated,
                failures: known.failures,
            }
        });
        readings.collect()
    }
}

/// Whether there is a thread.
fn started(spawned: std::io::Result<()>) -> bool {
    if let Err(error) = &spawned {
        tracing::warn!(event = "lists_not_read", "no thread can be started: {error}");
    }
    spawned.is_ok()
}
