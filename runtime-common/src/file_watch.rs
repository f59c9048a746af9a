//! Files that may change while the process runs: looked at again and again, without reading them.
//!
//! Decides when files count as changed. What is made of them then is up to those who watch.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::SystemTime;

use balancedns_core::time::{Duration, Instant};

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Time until the look that confirms a change.
const CONFIRM_AFTER: Duration = Duration::from_secs(1);

/// Watches files that belong together.
#[derive(Debug)]
pub(crate) struct FileWatch {
    paths: Vec<String>,
    /// Of what was read, or was found to be no good.
    known: Vec<Stamp>,
    /// Other ones, seen once: files that are being written may look like anything.
    seen: Option<Vec<Stamp>>,
    look_at: Instant,
}

/// What tells one content of a file from another without reading it; none if there is no file.
type Stamp = Option<Found>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Found {
    modified: Option<SystemTime>,
    /// Permissions that make a file readable change nothing else.
    changed: (i64, i64),
    octets: u64,
    /// Another file in its place, as editors and `mv` put one there.
    inode: (u64, u64),
}

impl FileWatch {
    /// Watches from now on what is about to be read.
    pub(crate) fn new(paths: Vec<String>, now: Instant) -> Self {
        let known = stamps(&paths);
        Self { paths, known, seen: None, look_at: now + LOOK_EVERY }
    }

    /// When to look again.
    pub(crate) fn next_look(&self) -> Instant {
        self.look_at
    }

    /// Looks, if it is time to. Whether the files are others than the known ones for the second time
    /// in a row: several files cannot be exchanged in one step, nor is one written in one.
    pub(crate) fn has_changed(&mut self, now: Instant) -> bool {
        if now < self.look_at {
            return false;
        }
        let has_changed = self.settle(stamps(&self.paths));
        self.look_at = now + if self.seen.is_some() { CONFIRM_AFTER } else { LOOK_EVERY };
        has_changed
    }

    /// What was told last was not made use of: it is told again.
    pub(crate) fn tell_again(&mut self) {
        self.known.clear();
    }

    fn settle(&mut self, found: Vec<Stamp>) -> bool {
        if found == self.known {
            self.seen = None;
            return false;
        }
        if self.seen.as_ref() != Some(&found) {
            self.seen = Some(found);
            return false;
        }
        self.seen = None;
        self.known = found;
        true
    }
}

fn stamps(paths: &[String]) -> Vec<Stamp> {
    paths.iter().map(|path| stamp(path)).collect()
}

fn stamp(path: &str) -> Stamp {
    let metadata = fs::metadata(path).ok()?;
    Some(Found {
        modified: metadata.modified().ok(),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
        octets: metadata.len(),
        inode: (metadata.dev(), metadata.ino()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_counts_when_it_has_settled_and_is_told_once() {
        let folder = tempfile::tempdir().expect("creates");
        let path = folder.path().join("list");
        let write = |text: &str| fs::write(&path, text).expect("writes");
        write("first");
        let mut watch = FileWatch::new(vec![path.display().to_string()], Instant::ZERO);
        let mut look = || {
            let at = watch.next_look();
            watch.has_changed(at)
        };
        assert!(!look());
        write("the second");
        assert!(!look(), "may be half written");
        write("the second, longer");
        assert!(!look(), "is being written");
        assert!(look());
        assert!(!look(), "told once");
        fs::remove_file(&path).expect("removes");
        assert!(!look());
        assert!(look(), "one that is gone has changed");
        assert!(!look());
        watch.tell_again();
        assert!(!watch.has_changed(watch.next_look()));
        assert!(watch.has_changed(watch.next_look()), "told, and then told again");
        assert!(!watch.has_changed(watch.next_look()));
    }

    #[test]
    fn another_file_of_the_same_size_and_time_is_a_change() {
        let folder = tempfile::tempdir().expect("creates");
        let (path, other) = (folder.path().join("list"), folder.path().join("other"));
        fs::write(&path, "one").expect("writes");
        fs::write(&other, "two").expect("writes");
        let time = fs::metadata(&path).and_then(|metadata| metadata.modified()).expect("a time");
        let file = fs::File::options().append(true).open(&other).expect("opens");
        file.set_modified(time).expect("sets");
        let mut watch = FileWatch::new(vec![path.display().to_string()], Instant::ZERO);
        fs::rename(&other, &path).expect("renames");
        assert!(!watch.has_changed(watch.next_look()));
        assert!(watch.has_changed(watch.next_look()));
    }

    #[test]
    fn it_looks_when_it_is_time_to_and_soon_again_to_confirm() {
        let folder = tempfile::tempdir().expect("creates");
        let path = folder.path().join("list").display().to_string();
        let mut watch = FileWatch::new(vec![path.clone()], Instant::ZERO);
        fs::write(&path, "there now").expect("writes");
        assert!(!watch.has_changed(Instant::ZERO + CONFIRM_AFTER));
        assert!(watch.seen.is_none(), "not looked at yet");
        let first = watch.next_look();
        assert_eq!(first, Instant::ZERO + LOOK_EVERY);
        assert!(!watch.has_changed(first));
        assert_eq!(watch.next_look(), first + CONFIRM_AFTER);
        assert!(watch.has_changed(watch.next_look()));
        assert_eq!(watch.next_look(), first + CONFIRM_AFTER + LOOK_EVERY);
    }
}
