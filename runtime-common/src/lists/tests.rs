//! Lists as the control thread sees them: real files, a real web server, real threads, and a clock
//! that the tests turn.

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::Mutex;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use balancedns_core::config::{Clock, Source};
use balancedns_core::policy::{BlockSet, Blocking};
use balancedns_core::wire::Name;
use tempfile::TempDir;

use super::server::{Server, response};
use super::*;
use crate::configuration::evaluate;
use crate::mailbox::{Receiver, mailbox};

const SEED: [u8; 32] = [5; 32];

/// A machine with these variables and the real files.
struct World(BTreeMap<&'static str, String>);

impl Host for World {
    fn variable(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }

    fn read(&self, path: &str) -> Result<String, String> {
        fs::read_to_string(path).map_err(|error| error.to_string())
    }

    fn system_resolvers(&self) -> Vec<SocketAddr> {
        Vec::new()
    }

    fn clock(&self) -> Option<Clock> {
        None
    }
}

/// What a control thread has.
struct Stand {
    folder: TempDir,
    snapshot: Snapshot,
    lists: Lists,
    now: Instant,
    teller: Sender<Report>,
    reports: Receiver<Report>,
}

fn snapshot(folder: &Path, sections: &str) -> Snapshot {
    let text = format!(
        "return {{ listen = {{ dns = '127.0.0.1:5300' }}, {sections},
           upstreams = {{ {{ name = 'one', addr = '192.0.2.1:53' }} }} }}"
    );
    let folder = folder.display().to_string();
    let source = Source { name: "test.lua".to_owned(), folder, text };
    evaluate(&source, &World(BTreeMap::new())).expect("valid").snapshot
}

impl Stand {
    /// Starts in this folder.
    fn start(folder: TempDir, sections: &str) -> Self {
        let mut snapshot = snapshot(folder.path(), sections);
        let cache = folder.path().join("cache").display().to_string();
        let world = World(BTreeMap::from([("CACHE_DIRECTORY", cache)]));
        let now = Instant::ZERO;
        let lists = Lists::new(&mut snapshot, &world, SEED, now);
        let (teller, reports) = mailbox();
        Self { folder, snapshot, lists, now, teller, reports }
    }

    fn new(sections: &str) -> Self {
        Self::start(tempfile::tempdir().expect("creates"), sections)
    }

    fn fetching(url: &str) -> Self {
        Self::new(&format!("blacklist = {{ urls = {{ '{url}' }} }}"))
    }

    /// The same machine, started again.
    fn restart(self, sections: &str) -> Self {
        Self::start(self.folder, sections)
    }

    fn write(&self, name: &str, content: &[u8]) {
        fs::write(self.folder.path().join(name), content).expect("writes");
    }

    /// Goes to the time of the next look, and looks.
    fn look(&mut self) {
        let next = self.lists.next_look(true).expect("there is something to look at");
        self.now = self.now.max(next);
        self.lists.look(self.now, true, Vec::new, &self.teller);
    }

    /// Looks until a thread is at work, and takes in all that it tells.
    fn round(&mut self) {
        while !self.lists.is_reading && !self.lists.is_fetching {
            self.look();
        }
        while self.lists.is_reading || self.lists.is_fetching {
            let report = block_on(self.reports.receive()).expect("there is a sender");
            match self.lists.handle(self.now, report) {
                Some(Change::List(source, list)) => {
                    self.snapshot.blocking =
                        self.snapshot.blocking.with_list(&source, &list).into();
                }
                Some(Change::Hosts(hosts)) => self.snapshot.hosts = Some(hosts),
                None => {}
            }
        }
    }

    fn blocks(&self, name: &str) -> bool {
        let name = Name::parse(name).expect("a name");
        self.snapshot.blocking.sets()[0].blocks(name.as_wire()).is_some()
    }

    fn reading(&self) -> ListReading {
        let mut readings = self.lists.readings();
        assert_eq!(readings.len(), 1);
        readings.remove(0)
    }
}

/// Waits for something that another thread brings about.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        thread::park();
    }
}

/// A server whose list the test exchanges; without one it fails. Its versions are the contents.
fn server(list: &Arc<Mutex<Option<String>>>) -> Server {
    let list = Arc::clone(list);
    Server::start(move |request| {
        let list = list.lock().expect("nobody panics").clone();
        let Some(list) = list else { return response(503, "", b"") };
        let etag = format!("\"{}\"", list.len());
        if request.contains(&format!("if-none-match: {etag}")) {
            return response(304, "", b"");
        }
        response(200, &format!("ETag: {etag}\r\n"), list.as_bytes())
    })
}

fn offered(list: &str) -> Arc<Mutex<Option<String>>> {
    Arc::new(Mutex::new(Some(list.to_owned())))
}

fn offer(list: &Mutex<Option<String>>, content: Option<&str>) {
    *list.lock().expect("nobody panics") = content.map(str::to_owned);
}

#[test]
fn a_file_that_changes_is_read_again_and_one_that_is_gone_is_kept() {
    let folder = tempfile::tempdir().expect("creates");
    fs::write(folder.path().join("ads.txt"), "a.example\n").expect("writes");
    let mut stand = Stand::start(folder, "blacklist = { files = { 'ads.txt' } }");
    assert!(stand.blocks("a.example") && !stand.blocks("b.example"));
    let generation = stand.snapshot.blocking.generation();
    stand.look();
    assert!(!stand.lists.is_reading, "nothing has changed");
    stand.write("ads.txt", b"b.example\nc.example\n\xff\n");
    stand.round();
    assert!(!stand.blocks("a.example") && stand.blocks("b.example"));
    assert_ne!(stand.snapshot.blocking.generation(), generation);
    assert_eq!((stand.reading().entries, stand.reading().failures), (2, 0));
    fs::remove_file(stand.folder.path().join("ads.txt")).expect("removes");
    stand.round();
    assert!(stand.blocks("b.example"), "the last good one");
    assert_eq!((stand.reading().entries, stand.reading().failures), (2, 1));
    stand.write("ads.txt", b"d.example\n");
    stand.round();
    assert!(stand.blocks("d.example") && !stand.blocks("b.example"));
}

#[test]
fn the_hosts_file_is_read_again() {
    use balancedns_core::policy::HostsAnswer;
    use balancedns_core::wire::RecordType;
    let folder = tempfile::tempdir().expect("creates");
    fs::write(folder.path().join("hosts"), "192.0.2.1 a.test\n").expect("writes");
    let mut stand = Stand::start(folder, "hosts = { file = 'hosts', ttl = 7 }");
    let listed = |stand: &Stand, name: &str| {
        let hosts = stand.snapshot.hosts.as_ref().expect("there is a file");
        assert_eq!(hosts.ttl(), 7);
        let name = Name::parse(name).expect("a name");
        hosts.lookup(name.as_wire(), RecordType::A) != HostsAnswer::NotListed
    };
    stand.write("hosts", b"192.0.2.2 b.test\nnonsense\n");
    stand.round();
    assert!(listed(&stand, "b.test") && !listed(&stand, "a.test"));
    stand.write("hosts", b"192.0.2.3 c.test \xff\n");
    stand.round();
    assert!(listed(&stand, "b.test"), "what cannot be read changes nothing");
    assert!(stand.lists.readings().is_empty(), "it is none of the lists");
}

#[test]
fn a_list_is_fetched_kept_and_asked_for_again() {
    let list = offered("a.example\n");
    let server = server(&list);
    let mut stand = Stand::fetching(&server.url("/ads.txt?token=secret"));
    assert!(!stand.blocks("a.example"));
    assert_eq!(stand.lists.next_look(true), Some(Instant::ZERO), "at once");
    assert_eq!(stand.lists.next_look(false), None, "not before anybody is served");
    stand.round();
    assert!(stand.blocks("a.example"));
    assert!(!stand.reading().list.contains("secret"), "{:?}", stand.reading());
    let generation = stand.snapshot.blocking.generation();
    let before = stand.now;
    stand.round();
    let waited = stand.now.since(before).as_secs();
    assert!((86_400..=95_040).contains(&waited), "{waited} s");
    assert!(server.requests()[1].contains("if-none-match: \"10\""), "{:?}", server.requests());
    assert_eq!(stand.snapshot.blocking.generation(), generation, "nothing is new");
    assert!(stand.reading().updated.is_some());
    offer(&list, Some("a.example\nb.example\n"));
    stand.round();
    assert!(stand.blocks("b.example"));
    assert_eq!(stand.reading().entries, 2);
}

#[test]
fn a_start_needs_no_server() {
    let server = server(&offered("a.example\n"));
    let url = server.url("/ads.txt");
    let mut stand = Stand::fetching(&url);
    stand.round();
    drop(server);
    let sections = format!("blacklist = {{ urls = {{ '{url}' }} }}");
    let mut stand = stand.restart(&sections);
    assert!(stand.blocks("a.example"), "the copy");
    let next = stand.lists.next_look(true).expect("it is fetched again");
    let wait = next.since(Instant::ZERO).as_secs();
    assert!((80_000..=86_400).contains(&wait), "the copy is fresh: {wait} s");
    stand.round();
    assert!(stand.blocks("a.example"), "nobody is there to ask");
    assert_eq!(stand.reading().failures, 1);
    let retry = stand.lists.next_look(true).expect("again").since(stand.now).as_secs();
    assert!((60..=66).contains(&retry), "{retry} s");
}

#[test]
fn a_copy_that_was_damaged_is_not_used() {
    let server = server(&offered("a.example\n"));
    let mut stand = Stand::fetching(&server.url("/ads.txt"));
    stand.round();
    let copies = fs::read_dir(stand.folder.path().join("cache/lists")).expect("a folder");
    let copies: Vec<_> = copies.map(|entry| entry.expect("an entry").path()).collect();
    assert_eq!(copies.len(), 1);
    let mut octets = fs::read(&copies[0]).expect("reads");
    octets.extend(b"b.example\n");
    fs::write(&copies[0], octets).expect("writes");
    let sections = format!("blacklist = {{ urls = {{ '{}' }} }}", server.url("/ads.txt"));
    let mut stand = stand.restart(&sections);
    assert!(!stand.blocks("a.example") && !stand.blocks("b.example"));
    stand.round();
    assert!(stand.blocks("a.example") && !stand.blocks("b.example"));
    assert!(!server.requests()[1].contains("if-none-match"), "{:?}", server.requests());
}

#[test]
fn what_is_no_list_changes_nothing() {
    let list = offered("a.example\nb.example\n");
    let server = server(&list);
    let url = server.url("/ads.txt");
    let mut stand = Stand::fetching(&url);
    stand.round();
    for (failures, answer) in [(1, None), (2, Some("<html>log in here</html>")), (3, Some("# -"))] {
        offer(&list, answer);
        stand.round();
        assert!(stand.blocks("a.example") && stand.blocks("b.example"));
        assert_eq!((stand.reading().entries, stand.reading().failures), (2, failures));
    }
    let sections = format!("blacklist = {{ urls = {{ '{url}' }} }}");
    let mut stand = stand.restart(&sections);
    assert!(stand.blocks("a.example"), "nor the copy");
    offer(&list, Some("c.example\n"));
    stand.round();
    assert!(stand.blocks("c.example") && !stand.blocks("a.example"));
    assert_eq!(stand.reading().failures, 0);
}

#[test]
fn nothing_is_kept_where_there_is_no_place() {
    let server = server(&offered("a.example\n"));
    let sections = |cache: &str| {
        format!("blacklist = {{ urls = {{ '{}' }}, cache_dir = {cache} }}", server.url("/a"))
    };
    for cache in ["false", "'/proc/nowhere'"] {
        let mut stand = Stand::new(&sections(cache));
        stand.round();
        assert!(stand.blocks("a.example"));
        assert!(!stand.blocks("b.example"));
        let mut stand = stand.restart(&sections(cache));
        assert!(!stand.blocks("a.example"));
        stand.round();
        assert!(stand.blocks("a.example"));
    }
}

#[test]
fn another_configuration_gets_what_is_there() {
    let server = server(&offered("fetched.example\n"));
    let folder = tempfile::tempdir().expect("creates");
    fs::write(folder.path().join("one.txt"), "one.example\n").expect("writes");
    fs::write(folder.path().join("hosts"), "192.0.2.1 a.test\n").expect("writes");
    let keys = format!(
        "hosts = {{ file = 'hosts' }},
         blacklist = {{ files = {{ 'one.txt' }}, urls = {{ '{}' }} }}",
        server.url("/ads.txt")
    );
    let mut stand = Stand::start(folder, &keys);
    stand.round();
    assert!(stand.blocks("one.example") && stand.blocks("fetched.example"));
    stand.write("two.txt", b"two.example\n");
    let more = keys.replace("'one.txt'", "'one.txt', 'two.txt'");
    let mut next = snapshot(stand.folder.path(), &more);
    // What has become of a file in the meantime is for its watch to tell.
    let source = ListSource::File(stand.folder.path().join("one.txt").display().to_string());
    next.blocking =
        next.blocking.with_list(&source, &NameList::empty(source.clone()).into()).into();
    stand.lists.carry_over(&stand.snapshot, &mut next, stand.now);
    let (before, hosts) = (stand.snapshot.blocking.generation(), stand.snapshot.hosts.clone());
    stand.snapshot = next;
    for name in ["one.example", "two.example", "fetched.example"] {
        assert!(stand.blocks(name), "{name}");
    }
    assert!(Arc::ptr_eq(
        stand.snapshot.hosts.as_ref().expect("there is a file"),
        hosts.as_ref().expect("there was a file")
    ));
    assert_ne!(stand.snapshot.blocking.generation(), before);
    assert_eq!(stand.lists.readings().len(), 3);
    assert_eq!(server.requests().len(), 1, "nothing is fetched for that");
    stand.write("two.txt", b"other.example\n");
    stand.round();
    assert!(stand.blocks("other.example"));
}

#[test]
fn lists_have_names_of_their_own() {
    let url = |query: &str| ListSource::Url(format!("http://lists.example/a?{query}"));
    let list = |source| Arc::new(NameList::empty(source));
    let lists = vec![list(url("one")), list(url("two"))];
    let folder = tempfile::tempdir().expect("creates");
    let mut snapshot = snapshot(folder.path(), "cache = {}");
    let set = BlockSet { lists, ..BlockSet::default() };
    snapshot.blocking = Blocking::new(vec![set], 1).into();
    let lists = Lists::new(&mut snapshot, &World(BTreeMap::new()), SEED, Instant::ZERO);
    let names: Vec<String> = lists.readings().into_iter().map(|reading| reading.list).collect();
    assert_eq!(names, ["http://lists.example/a", "http://lists.example/a (2)"]);
}
