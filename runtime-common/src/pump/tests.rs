//! A connection between a stream and an engine that are both played.

use std::pin::pin;
use std::rc::Rc;

use balancedns_core::handle::{self, Slab};

use super::*;
use crate::conn::Conns;
use crate::wakes::Wakes;

/// A stream whose other side does what the test says.
#[derive(Default)]
struct Played {
    /// What is read next; not ready when there is nothing.
    incoming: VecDeque<&'static [u8]>,
    /// How many octets each write takes; not ready when there is nothing.
    takes: VecDeque<usize>,
    sent: Vec<u8>,
    closed: bool,
    reads: usize,
}

impl Octets for Played {
    fn poll_read(&mut self, _: &mut Context<'_>, memory: &mut [u8]) -> Poll<io::Result<usize>> {
        self.reads += 1;
        let Some(octets) = self.incoming.pop_front() else { return Poll::Pending };
        memory[..octets.len()].copy_from_slice(octets);
        Poll::Ready(Ok(octets.len()))
    }

    fn poll_write(&mut self, _: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        assert!(!self.closed);
        let Some(takes) = self.takes.pop_front() else { return Poll::Pending };
        let taken = &octets[..takes.min(octets.len())];
        self.sent.extend_from_slice(taken);
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.closed = true;
        Poll::Ready(Ok(()))
    }
}

/// Writes down what it is told, and may answer by a wish.
#[derive(Default)]
struct Notes {
    lines: RefCell<Vec<String>>,
    close_when_received: Option<Rc<Conn>>,
}

impl Told for Notes {
    fn written(&self, _: ConnHandle, octets: usize) {
        self.lines.borrow_mut().push(format!("written {octets}"));
    }

    fn received(&self, _: ConnHandle, octets: &[u8]) {
        self.lines.borrow_mut().push(format!("received {}", octets.escape_ascii()));
        if let Some(conn) = &self.close_when_received {
            conn.wish(|wishes| wishes.close = Some(CloseMode::AfterWrites));
        }
    }

    fn ended(&self, _: ConnHandle) {
        self.lines.borrow_mut().push("ended".to_owned());
    }
}

fn conn() -> Rc<Conn> {
    let mut slab = Slab::<handle::Conn, ()>::new(1);
    Conns::default().enter(slab.insert(()).expect("room"))
}

fn send(conn: &Conn, octets: &'static [u8]) {
    conn.wish(|wishes| wishes.queue.push_back(Bytes::from_static(octets)));
}

/// Polls once, and says how often the task was woken meanwhile.
fn poll_once<F: Future>(future: F) -> (Poll<F::Output>, usize) {
    let (wakes, waker) = Wakes::new();
    let poll = pin!(future).poll(&mut Context::from_waker(&waker));
    (poll, wakes.count())
}

fn memory() -> RefCell<Box<[u8]>> {
    RefCell::new(vec![0; 16].into())
}

#[test]
fn what_is_wished_for_leaves_in_order_and_what_comes_is_told() {
    let (conn, notes, memory) = (conn(), Notes::default(), memory());
    send(&conn, b"abc");
    send(&conn, b"de");
    let mut stream = Played {
        incoming: [&b"xy"[..], b"z", b""].into(),
        takes: [2, 1, 1].into(),
        ..Played::default()
    };
    let (poll, wakes) = poll_once(pump(&notes, &conn, &mut stream, &memory));
    assert!(poll.is_pending());
    assert_eq!((stream.sent.as_slice(), wakes), (&b"abcd"[..], 0));
    let told = ["written 4", "received xy", "received z", "ended"];
    assert_eq!(*notes.lines.borrow(), told);
    assert_eq!(stream.reads, 3, "nothing is read after the end");
    assert_eq!(conn.wishes().queue, [&b"e"[..]]);
}

#[test]
fn nothing_is_read_while_reading_is_paused() {
    let (conn, notes, memory) = (conn(), Notes::default(), memory());
    conn.wish(|wishes| wishes.paused = true);
    let mut stream = Played { incoming: [&b"x"[..]].into(), ..Played::default() };
    let (poll, _) = poll_once(pump(&notes, &conn, &mut stream, &memory));
    assert!(poll.is_pending());
    assert_eq!(stream.reads, 0);
    conn.wish(|wishes| wishes.paused = false);
    let (poll, _) = poll_once(pump(&notes, &conn, &mut stream, &memory));
    assert!(poll.is_pending());
    assert_eq!(*notes.lines.borrow(), ["received x"]);
}

#[test]
fn a_busy_connection_lets_others_have_their_turn() {
    let (conn, notes, memory) = (conn(), Notes::default(), memory());
    let incoming = std::iter::repeat_n(&b"x"[..], 2 * STEPS_PER_TURN).collect();
    let mut stream = Played { incoming, ..Played::default() };
    let (poll, wakes) = poll_once(pump(&notes, &conn, &mut stream, &memory));
    assert!(poll.is_pending());
    assert_eq!((stream.reads, wakes), (STEPS_PER_TURN, 1), "it comes again by itself");
}

#[test]
fn an_end_that_is_wished_for_while_reading_is_seen_at_once() {
    let (conn, memory) = (conn(), memory());
    let close_when_received = Some(Rc::clone(&conn));
    let notes = Notes { close_when_received, ..Notes::default() };
    let mut stream = Played { incoming: [&b"x"[..], b"y"].into(), ..Played::default() };
    let (poll, _) = poll_once(pump(&notes, &conn, &mut stream, &memory));
    assert!(matches!(poll, Poll::Ready(Ok(CloseMode::AfterWrites))));
    assert_eq!(stream.reads, 1);
}

#[test]
fn a_stream_that_takes_nothing_is_broken() {
    let (conn, notes, memory) = (conn(), Notes::default(), memory());
    send(&conn, b"abc");
    let mut stream = Played { takes: [1, 0].into(), ..Played::default() };
    let (poll, _) = poll_once(pump(&notes, &conn, &mut stream, &memory));
    let Poll::Ready(Err(error)) = poll else { panic!("goes on: {poll:?}") };
    assert_eq!(error.kind(), io::ErrorKind::WriteZero);
}

#[test]
fn finishing_sends_the_rest_then_closes_then_takes_what_came_in_vain() {
    let memory = RefCell::new(vec![0; 4096].into());
    let conn = conn();
    send(&conn, b"abc");
    let mut stream = Played { takes: [1].into(), ..Played::default() };
    assert!(poll_once(finish(&conn, &mut stream, &memory)).0.is_pending());
    assert!(!stream.closed);
    stream.takes = [2].into();
    stream.incoming = std::iter::repeat_n(&b"x"[..], 2 * READS_AFTER_END).collect();
    let (poll, _) = poll_once(finish(&conn, &mut stream, &memory));
    assert!(matches!(poll, Poll::Ready(Ok(()))));
    assert!(stream.closed);
    assert_eq!((stream.sent.as_slice(), stream.reads), (&b"abc"[..], READS_AFTER_END));
}
