//! What a plugin may do and what not.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::thread;

use balancedns_core::engine::ProcessExit;
use balancedns_core::policy::ExecMode::Once;
use balancedns_runtime::process::gaps;
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid, getppid};

use crate::Case;
use crate::bench::Bench;

pub(crate) fn all() -> Vec<Case> {
    let possible = gaps().is_empty();
    vec![
        Case { possible, ..Case::new("what_is_forbidden_fails_and_the_rest_works", tried) },
        Case::new("limits_are_set", limits),
        Case { possible, ..Case::new("privileges_cannot_be_had", privileges) },
    ]
}

/// Everything is tried in the launched process; it prints a line for each.
pub(crate) fn run_all(arguments: &[String]) -> io::Result<()> {
    let [what, folder] = arguments else { return Err(io::ErrorKind::InvalidInput.into()) };
    let lines = match what.as_str() {
        "all" => tries(Path::new(folder)),
        "limits" => limit_lines(),
        _ => privilege_lines()?,
    };
    let mut text = String::new();
    for (name, result) in lines {
        text.push_str(&format!("{name}: {result}\n"));
    }
    io::stdout().write_all(text.as_bytes())
}

fn said(what: &str) -> String {
    let mut bench = Bench::new();
    let folder = bench.folder().to_str().expect("a text").to_owned();
    fs::write(bench.folder().join("there"), "old").expect("writes");
    let process = bench.own(Once, &["try", what, &folder]);
    let (said, end) = bench.end(process);
    assert_eq!(end, ProcessExit::Code(0), "{said}");
    assert_eq!(fs::read(bench.folder().join("there")).expect("is there"), b"old");
    assert_eq!(fs::read_dir(bench.folder()).expect("is there").count(), 1);
    said
}

type Line = (&'static str, String);

fn outcome<T>(result: io::Result<T>) -> String {
    match result {
        Ok(_) => "done".to_owned(),
        Err(error) => error
            .raw_os_error()
            .map_or("failed".to_owned(), |e| format!("{:?}", Errno::from_raw(e))),
    }
}

fn tries(folder: &Path) -> Vec<Line> {
    let (there, new) = (folder.join("there"), folder.join("new"));
    let daemon = getppid();
    let signalled = |pid| outcome(kill(pid, Signal::SIGCONT).map_err(io::Error::from));
    vec![
        ("read", outcome(fs::read(&there))),
        ("create", outcome(File::create(&new))),
        ("overwrite", outcome(OpenOptions::new().write(true).open(&there))),
        ("remove", outcome(fs::remove_file(&there))),
        ("rename", outcome(fs::rename(&there, &new))),
        ("link", outcome(symlink(&there, &new))),
        ("folder", outcome(fs::create_dir(&new))),
        ("mode", outcome(fs::set_permissions(&there, Permissions::from_mode(0o777)))),
        ("time", outcome(File::open(&there).and_then(|f| f.set_modified(std::time::UNIX_EPOCH)))),
        ("nowhere", outcome(fs::write("/dev/null", "x"))),
        ("tcp", outcome(TcpListener::bind("127.0.0.1:0"))),
        ("udp", outcome(UdpSocket::bind("127.0.0.1:0"))),
        ("unix", outcome(UnixListener::bind(&new))),
        ("pair", outcome(UnixStream::pair())),
        ("child", outcome(Command::new("/bin/true").status())),
        ("thread", outcome(thread::Builder::new().spawn(|| ()))),
        ("itself", signalled(getpid())),
        ("daemon", signalled(daemon)),
        ("its_group", signalled(Pid::from_raw(-daemon.as_raw()))),
        ("everybody", signalled(Pid::from_raw(-1))),
        ("another", signalled(Pid::from_raw(1))),
        ("memory", outcome(File::open(format!("/proc/{daemon}/mem")))),
        ("variables", outcome(fs::read(format!("/proc/{daemon}/environ")))),
        ("namespace", outcome(unshare(CloneFlags::CLONE_NEWUSER).map_err(io::Error::from))),
    ]
}

fn tried() {
    let expected = "read: done\ncreate: EACCES\noverwrite: EACCES\nremove: EACCES\nrename: EACCES\n\
        link: EACCES\nfolder: EACCES\nmode: EPERM\ntime: EPERM\nnowhere: done\ntcp: EPERM\n\
        udp: EPERM\nunix: EPERM\npair: done\nchild: done\nthread: done\nitself: done\n\
        daemon: EPERM\nits_group: EPERM\neverybody: EPERM\nanother: EPERM\nmemory: EACCES\n\
        variables: EACCES\nnamespace: EPERM\n";
    assert_eq!(said("all"), expected);
}

fn limit_lines() -> Vec<Line> {
    let shown = |resource| getrlimit(resource).map_or("?".to_owned(), |(_, hard)| hard.to_string());
    vec![
        ("data", shown(Resource::RLIMIT_DATA)),
        ("descriptors", shown(Resource::RLIMIT_NOFILE)),
        ("file", shown(Resource::RLIMIT_FSIZE)),
        ("core", shown(Resource::RLIMIT_CORE)),
        ("seconds", shown(Resource::RLIMIT_CPU)),
        ("much", outcome(reserve(1 << 30))),
        ("little", outcome(reserve(1 << 20))),
    ]
}

fn reserve(octets: usize) -> io::Result<Vec<u8>> {
    let mut memory = Vec::new();
    memory.try_reserve_exact(octets).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    memory.resize(octets, 1);
    Ok(memory)
}

fn limits() {
    let expected = "data: 536870912\ndescriptors: 256\nfile: 0\ncore: 0\nseconds: 10\n\
        much: failed\nlittle: done\n";
    assert_eq!(said("limits"), expected);
}

fn privilege_lines() -> io::Result<Vec<Line>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let of_status = |key| {
        let value = status.lines().find_map(|line| line.strip_prefix(key));
        value.unwrap_or("?").trim().to_owned()
    };
    Ok(vec![
        ("no_new_privs", format!("{:?}", prctl::get_no_new_privs()?)),
        ("filtered", of_status("Seccomp:")),
        ("may", of_status("CapEff:")),
        ("could", of_status("CapPrm:")),
        ("passes_on", of_status("CapInh:")),
        ("dies_by", format!("{:?}", prctl::get_pdeathsig()?)),
    ])
}

fn privileges() {
    let none = "0000000000000000";
    let expected = format!(
        "no_new_privs: true\nfiltered: 2\nmay: {none}\ncould: {none}\npasses_on: {none}\n\
         dies_by: Some(SIGKILL)\n"
    );
    assert_eq!(said("privileges"), expected);
}
