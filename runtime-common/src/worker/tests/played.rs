//! An async runtime of one thread without sockets: tasks run when a test says so, until none can go
//! on.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use super::*;

type Task = Pin<Box<dyn Future<Output = ()>>>;

thread_local! {
    static TASKS: RefCell<Vec<Task>> = const { RefCell::new(Vec::new()) };
    /// What was connected to upstreams and nobody has taken yet.
    static CONNECTED: RefCell<VecDeque<Side>> = const { RefCell::new(VecDeque::new()) };
}

/// This runtime, to a worker.
#[derive(Debug)]
pub(super) enum Played {}

impl Adapter for Played {
    type Stream = Side;
    type Tls = Side;

    fn spawn(task: impl Future<Output = ()> + 'static) {
        TASKS.with_borrow_mut(|tasks| tasks.push(Box::pin(task)));
    }

    async fn connect(_: SocketAddr, _: Option<IpAddr>) -> io::Result<Side> {
        let (theirs, ours) = duplex();
        CONNECTED.with_borrow_mut(|connected| connected.push_back(theirs));
        Ok(ours)
    }

    async fn accept_tls(stream: Side, _: Arc<ServerConfig>) -> Session<Side> {
        Ok((stream, None))
    }

    async fn connect_tls(stream: Side, _: &UpstreamClient) -> Session<Side> {
        Ok((stream, Some(Bytes::from_static(b"h2"))))
    }

    async fn timeout(_: Duration, future: impl Future<Output = ()>) {
        future.await;
    }
}

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Runs all tasks until none can go on.
pub(super) fn run() {
    let flag = Arc::new(Flag::default());
    let waker = Waker::from(Arc::clone(&flag));
    let context = &mut Context::from_waker(&waker);
    let mut tasks = Vec::new();
    loop {
        let new = TASKS.take();
        let changed = flag.0.swap(false, Ordering::SeqCst) || !new.is_empty();
        tasks.extend(new);
        if !changed && !flag.0.load(Ordering::SeqCst) {
            break;
        }
        tasks.retain_mut(|task: &mut Task| task.as_mut().poll(context).is_pending());
    }
    TASKS.with_borrow_mut(|kept| kept.extend(tasks));
}

/// What a future came to, once it has.
pub(super) struct Coming<T>(Rc<RefCell<Option<T>>>);

impl<T> Coming<T> {
    pub(super) fn take(&self) -> Option<T> {
        self.0.take()
    }
}

/// Begins a future. It goes on with every [`run`].
pub(super) fn begin<T: 'static>(future: impl Future<Output = T> + 'static) -> Coming<T> {
    let coming = Rc::new(RefCell::new(None));
    let result = Rc::clone(&coming);
    Played::spawn(async move {
        let value = future.await;
        result.replace(Some(value));
    });
    Coming(coming)
}

/// What a future comes to, where nothing of it has to wait for time.
pub(super) fn done<T: 'static>(future: impl Future<Output = T> + 'static) -> T {
    let coming = begin(future);
    run();
    coming.take().expect("waits for nothing that does not come")
}

/// The other side of the next connection that the worker has made.
pub(super) fn connected() -> Side {
    run();
    let connected = CONNECTED.with_borrow_mut(VecDeque::pop_front);
    connected.expect("the worker connects")
}

/// One direction of a stream.
#[derive(Debug, Default)]
struct Pipe {
    octets: VecDeque<u8>,
    is_closed: bool,
    writes: usize,
    reader: Option<Waker>,
}

impl Pipe {
    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

/// One side of a stream in memory. Whatever is written is taken at once.
#[derive(Debug)]
pub(super) struct Side {
    incoming: Rc<RefCell<Pipe>>,
    outgoing: Rc<RefCell<Pipe>>,
}

/// Both sides of a stream.
pub(super) fn duplex() -> (Side, Side) {
    let (one, other) = (Rc::default(), Rc::default());
    let sides = (Rc::clone(&other), Rc::clone(&one));
    (Side { incoming: one, outgoing: other }, Side { incoming: sides.0, outgoing: sides.1 })
}

impl Side {
    /// What the stream runs on, whoever gets the stream itself.
    pub(super) fn line(&self) -> Line {
        Line { incoming: Rc::clone(&self.incoming), outgoing: Rc::clone(&self.outgoing) }
    }

    /// Writes, and runs everything.
    pub(super) fn send(&self, octets: &[u8]) {
        let mut outgoing = self.outgoing.borrow_mut();
        outgoing.octets.extend(octets);
        outgoing.wake();
        drop(outgoing);
        run();
    }

    /// Whatever is there to be read, and whether it is all there will be.
    pub(super) fn received(&self) -> (Vec<u8>, bool) {
        let mut incoming = self.incoming.borrow_mut();
        (incoming.octets.drain(..).collect(), incoming.is_closed)
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        self.line().cut();
    }
}

/// What one side of a stream runs on.
pub(super) struct Line {
    incoming: Rc<RefCell<Pipe>>,
    outgoing: Rc<RefCell<Pipe>>,
}

impl Line {
    /// How often the other side has written.
    pub(super) fn writes(&self) -> usize {
        self.incoming.borrow().writes
    }

    /// Ends both directions.
    fn cut(&self) {
        for pipe in [&self.incoming, &self.outgoing] {
            let mut pipe = pipe.borrow_mut();
            pipe.is_closed = true;
            pipe.wake();
        }
    }

    /// Ends both directions, and runs everything.
    pub(super) fn hang_up(&self) {
        self.cut();
        run();
    }
}

impl Octets for Side {
    fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        memory: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut pipe = self.incoming.borrow_mut();
        if pipe.octets.is_empty() && !pipe.is_closed {
            pipe.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        let octets = memory.len().min(pipe.octets.len());
        for (place, octet) in memory.iter_mut().zip(pipe.octets.drain(..octets)) {
            *place = octet;
        }
        Poll::Ready(Ok(octets))
    }

    fn poll_write(&mut self, _: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        let mut pipe = self.outgoing.borrow_mut();
        if pipe.is_closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        pipe.octets.extend(octets);
        pipe.writes += 1;
        pipe.wake();
        Poll::Ready(Ok(octets.len()))
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pipe = self.outgoing.borrow_mut();
        pipe.is_closed = true;
        pipe.wake();
        Poll::Ready(Ok(()))
    }
}
