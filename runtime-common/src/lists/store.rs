//! Copies of fetched lists on disk: what a start begins with, and what is left when a server is gone.
//!
//! A copy is one file, so that its content and what is known of it are exchanged in one step. It
//! begins with a line of its own, which is a comment to every reader of lists; its time is that of
//! the last successful fetch.

use std::fs::{self, DirBuilder, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use aws_lc_rs::digest;
use balancedns_core::limits::LIST_OCTETS;
use serde::{Deserialize, Serialize};

use crate::host::explained;

/// What the first line of a copy begins with.
const MARK: &str = "# balancedns ";
/// The most octets that the first line may have.
const HEAD_OCTETS: u64 = 16_384;

/// A folder of copies.
#[derive(Debug, Clone)]
pub(super) struct Store {
    folder: PathBuf,
}

/// A copy.
#[derive(Debug)]
pub(super) struct Kept {
    /// The list.
    pub(super) octets: Vec<u8>,
    /// Which one of its server's it is.
    pub(super) version: Version,
    /// When its server last said that this is the list.
    pub(super) fetched: SystemTime,
}

/// How a server tells one content of a URL from another (RFC 9110 section 8.8).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Version {
    /// As it was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) etag: Option<String>,
    /// As it was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_modified: Option<String>,
}

/// Why there is no copy to be had, or none to be kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// The system says so.
    #[error("{path}: {}", explained(error))]
    Io {
        /// Of what.
        path: String,
        /// What it says.
        error: io::Error,
    },
    /// Somebody has changed the file, or the disk has.
    #[error("{path}: {what}")]
    Damaged {
        /// Which file.
        path: String,
        /// How one can tell.
        what: &'static str,
    },
}

#[derive(Serialize, Deserialize)]
struct Head {
    url: String,
    #[serde(flatten)]
    version: Version,
    sha256: String,
}

impl Store {
    /// Of copies in this folder, which is made when the first one is kept.
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Where the copies are.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The copy of what this URL gave last, if there is one.
    ///
    /// # Errors
    /// There is one, and it cannot be used.
    pub(super) fn load(&self, url: &str) -> Result<Option<Kept>, StoreError> {
        let path = self.path(url);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(&path, error)),
        };
        let fetched = file.metadata().and_then(|metadata| metadata.modified());
        let fetched = fetched.map_err(|error| failed(&path, error))?;
        let damaged = |what| StoreError::Damaged { path: path.display().to_string(), what };
        let mut file = BufReader::new(file);
        let mut head = Vec::new();
        let mut octets = Vec::new();
        let read = file.by_ref().take(HEAD_OCTETS).read_until(b'\n', &mut head);
        let read = read.and_then(|_| file.take(LIST_OCTETS + 1).read_to_end(&mut octets));
        read.map_err(|error| failed(&path, error))?;
        let head = head.strip_prefix(MARK.as_bytes());
        let head = head.and_then(|json| serde_json::from_slice::<Head>(json).ok());
        let head = head.ok_or_else(|| damaged("its first line is not what was written"))?;
        if head.url != url {
            return Err(damaged("it is a copy of another URL"));
        }
        if head.sha256 != sha256(&octets) {
            return Err(damaged("its content is not what was written"));
        }
        Ok(Some(Kept { octets, version: head.version, fetched }))
    }

    /// Keeps a copy in place of the last one.
    ///
    /// # Errors
    /// It cannot be written; the last one stays.
    pub(super) fn keep(
        &self,
        url: &str,
        version: &Version,
        octets: &[u8],
    ) -> Result<(), StoreError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.folder);
        made.map_err(|error| failed(&self.folder, error))?;
        let path = self.path(url);
        // Two processes that share the folder do not write into one file.
        let unfinished = path.with_extension(format!("{}.tmp", std::process::id()));
        let head = Head { url: url.to_owned(), version: version.clone(), sha256: sha256(octets) };
        let written = write(&unfinished, &head, octets);
        let placed = written.and_then(|()| fs::rename(&unfinished, &path));
        placed.map_err(|error| {
            // Perhaps it was never made.
            let _ = fs::remove_file(&unfinished);
            failed(&path, error)
        })
    }

    /// The server says that the copy is still what it has.
    ///
    /// # Errors
    /// There is no copy, or it cannot be written.
    pub(super) fn confirm(&self, url: &str) -> Result<(), StoreError> {
        let path = self.path(url);
        let confirmed = File::options()
            .append(true)
            .open(&path)
            .and_then(|file| file.set_modified(SystemTime::now()));
        confirmed.map_err(|error| failed(&path, error))
    }

    fn path(&self, url: &str) -> PathBuf {
        let mut name = sha256(url.as_bytes());
        name.truncate(32);
        self.folder.join(name).with_extension("list")
    }
}

fn write(path: &Path, head: &Head, octets: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    let head = serde_json::to_string(head)?; // JSON has no line break outside of escapes
    file.write_all(format!("{MARK}{head}\n").as_bytes())?;
    file.write_all(octets)?;
    // Else the new name may be on disk before its content is.
    file.sync_all()
}

fn failed(path: &Path, error: io::Error) -> StoreError {
    StoreError::Io { path: path.display().to_string(), error }
}

fn sha256(octets: &[u8]) -> String {
    let hash = digest::digest(&digest::SHA256, octets);
    hash.as_ref().iter().map(|octet| format!("{octet:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tempfile::TempDir;

    use super::*;

    const URL: &str = "https://lists.example/ads.txt";

    fn store() -> (TempDir, Store) {
        let folder = tempfile::tempdir().expect("creates");
        let store = Store::new(folder.path().join("a").join("lists"));
        (folder, store)
    }

    fn version() -> Version {
        Version { etag: Some("\"1\"".to_owned()), last_modified: None }
    }

    fn files(store: &Store) -> Vec<PathBuf> {
        let entries = fs::read_dir(store.folder()).expect("a folder");
        entries.map(|entry| entry.expect("an entry").path()).collect()
    }

    #[test]
    fn what_is_kept_comes_back() {
        let (_folder, store) = store();
        assert!(store.load(URL).expect("no error").is_none());
        store.keep(URL, &version(), b"one.example\n").expect("keeps");
        store.keep(URL, &version(), b"two.example\n\xff\0").expect("keeps another");
        let kept = store.load(URL).expect("readable").expect("there");
        assert_eq!(
            (kept.octets.as_slice(), kept.version),
            (&b"two.example\n\xff\0"[..], version())
        );
        assert_eq!(files(&store).len(), 1, "nothing unfinished is left");
        assert!(store.load("https://lists.example/other").expect("no error").is_none());
    }

    #[test]
    fn the_time_of_a_copy_is_that_of_the_last_word_of_its_server() {
        let (_folder, store) = store();
        assert!(store.confirm(URL).is_err(), "there is none");
        store.keep(URL, &version(), b"one.example\n").expect("keeps");
        let long_ago = SystemTime::now() - Duration::from_secs(1_000_000);
        let file = File::options().append(true).open(store.path(URL)).expect("opens");
        file.set_modified(long_ago).expect("sets");
        let fetched = || store.load(URL).expect("readable").expect("there").fetched;
        assert_eq!(fetched(), long_ago);
        store.confirm(URL).expect("writes");
        assert!(fetched().elapsed().expect("past") < Duration::from_secs(100));
    }

    #[test]
    fn a_damaged_copy_is_told_apart() {
        let (_folder, store) = store();
        store.keep(URL, &version(), b"one.example\n").expect("keeps");
        let whole = fs::read(store.path(URL)).expect("reads");
        let damage = |octets: &[u8]| {
            fs::write(store.path(URL), octets).expect("writes");
            store.load(URL).expect_err("damaged").to_string()
        };
        assert!(damage(&whole[..whole.len() - 1]).contains("its content"));
        assert!(damage(&[&whole[..], b"x"].concat()).contains("its content"));
        assert!(damage(b"").contains("its first line"));
        assert!(damage(b"one.example\n").contains("its first line"));
        assert!(damage(&vec![b'#'; 100_000]).contains("its first line"));
        fs::write(store.path("https://other.example/"), &whole).expect("writes");
        let error = store.load("https://other.example/").expect_err("of another");
        assert!(error.to_string().contains("another URL"), "{error}");
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_an_error() {
        let (folder, _) = store();
        let file = folder.path().join("file");
        fs::write(&file, "").expect("writes");
        let store = Store::new(file.join("lists"));
        let error = store.keep(URL, &version(), b"").expect_err("no folder");
        assert!(matches!(error, StoreError::Io { .. }), "{error}");
    }
}
