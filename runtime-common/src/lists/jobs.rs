//! What threads in the background do: read files that have changed, and fetch what is due. Each thread
//! does one round, tells what has come of each list, and ends.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::Builder;

use balancedns_core::policy::{Hosts, ListSource, NameList};

use super::content;
use super::fetch::{Fetched, Fetcher};
use super::store::{Store, Version};
use crate::host::explained;
use crate::mailbox::Sender;

/// What a thread has to tell. There are at most as many as there are lists, and two more.
#[derive(Debug)]
pub(crate) enum Report {
    /// Of a list.
    List(ListSource, Result<Content, String>),
    /// Of the hosts file.
    Hosts(Result<Arc<Hosts>, String>),
    /// That its round is over, whatever it died of.
    Over(Round),
}

/// What a list has now.
#[derive(Debug)]
pub(crate) enum Content {
    /// What it had.
    Same,
    /// Something else.
    Other(Arc<NameList>, Version),
}

/// What a thread is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Round {
    /// Reading files.
    Files,
    /// Fetching.
    Urls,
}

/// Files to be read.
#[derive(Debug, Default)]
pub(super) struct ToRead {
    /// The lists among them.
    pub(super) lists: Vec<String>,
    /// The hosts file, and the TTL of its answers.
    pub(super) hosts: Option<(String, u32)>,
}

/// A list to be fetched.
#[derive(Debug)]
pub(super) struct ToFetch {
    /// From where.
    pub(super) url: String,
    /// What we have, if we have it.
    pub(super) version: Option<Version>,
    /// How much that is.
    pub(super) entries: usize,
}

/// Reads files.
///
/// # Errors
/// The process is out of threads or memory.
pub(super) fn read<T>(files: ToRead, teller: Sender<T>) -> io::Result<()>
where
    T: From<Report> + Send + 'static,
{
    spawn("list-files", Round::Files, teller, move |tell| {
        for path in files.lists {
            let source = ListSource::File(path);
            let content = content::read_list(&source).map(|list| {
                content::tell_problems(&list);
                Content::Other(Arc::new(list), Version::default())
            });
            tell(Report::List(source, content));
        }
        if let Some((path, ttl)) = files.hosts {
            tell(Report::Hosts(read_hosts(&path, ttl)));
        }
    })
}

fn read_hosts(path: &str, ttl: u32) -> Result<Arc<Hosts>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| explained(&error))?;
    let (hosts, warnings) = Hosts::parse(&text, ttl);
    for warning in warnings {
        tracing::warn!(event = "hosts_line", "{path}: {warning}");
    }
    Ok(Arc::new(hosts))
}

/// Fetches lists, one after the other; `servers` know the addresses of their hosts.
///
/// # Errors
/// The process is out of threads or memory.
pub(super) fn fetch<T>(
    lists: Vec<ToFetch>,
    servers: Vec<SocketAddr>,
    store: Option<Store>,
    teller: Sender<T>,
) -> io::Result<()>
where
    T: From<Report> + Send + 'static,
{
    spawn("list-fetch", Round::Urls, teller, move |tell| {
        let fetcher = Fetcher::new(servers);
        for list in lists {
            let content = fetch_one(&fetcher, &list, store.as_ref());
            tell(Report::List(ListSource::Url(list.url), content));
        }
    })
}

fn fetch_one(fetcher: &Fetcher, list: &ToFetch, store: Option<&Store>) -> Result<Content, String> {
    let fetched = fetcher.fetch(&list.url, list.version.as_ref());
    let source = ListSource::Url(list.url.clone());
    let (kept, content) = match fetched.map_err(|error| error.to_string())? {
        Fetched::Unchanged => (store.map(|store| store.confirm(&list.url)), Content::Same),
        Fetched::Content { octets, version } => {
            let parsed = content::parse_fetched(&source, &octets, list.entries);
            let parsed = parsed.map_err(|error| error.to_string())?;
            let kept = store.map(|store| store.keep(&list.url, &version, &octets));
            (kept, Content::Other(Arc::new(parsed), version))
        }
    };
    if let Some(Err(error)) = kept {
        let name = content::called(&source);
        tracing::warn!(event = "list_not_kept", "{name}: no copy is kept: {error}");
    }
    Ok(content)
}

/// A thread whose end is told even if it panics.
fn spawn<T>(
    name: &str,
    round: Round,
    teller: Sender<T>,
    work: impl FnOnce(&dyn Fn(Report)) + Send + 'static,
) -> io::Result<()>
where
    T: From<Report> + Send + 'static,
{
    let body = move || {
        let end = End { teller, round };
        work(&|report| end.teller.send(T::from(report)));
    };
    Builder::new().name(name.to_owned()).spawn(body).map(drop)
}

struct End<T: From<Report>> {
    teller: Sender<T>,
    round: Round,
}

impl<T: From<Report>> Drop for End<T> {
    fn drop(&mut self) {
        self.teller.send(T::from(Report::Over(self.round)));
    }
}
