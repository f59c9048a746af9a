//! The HTTP side of metrics and health: one request for each connection, and how many at once.
//!
//! What is answered is decided in [`balancedns_core::admin`]; the daemons accept the connections.

use std::cell::Cell;
use std::convert::Infallible;
use std::fmt;
use std::future::ready;
use std::rc::Rc;

use balancedns_core::admin::{View, respond};
use balancedns_core::limits::ADMIN_CONNS;
use balancedns_core::time::Duration;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;

use crate::bell::Bell;

/// From accepting a connection to the end of its only answer, slow senders and readers included.
pub const CONNECTION_TIMEOUT: Duration = Duration::from_secs(1);
/// Wait after an accept that failed: most often the process is out of descriptors.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Makes what is shown.
#[derive(Clone)]
pub struct MakeView(Rc<dyn Fn() -> View>);

impl MakeView {
    /// Calls this for each request.
    #[must_use]
    pub fn new(make: impl Fn() -> View + 'static) -> Self {
        Self(Rc::new(make))
    }
}

impl fmt::Debug for MakeView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MakeView")
    }
}

/// Serves a connection until its only answer is sent. The caller bounds the time by
/// [`CONNECTION_TIMEOUT`]. Whatever goes wrong is between the client and the kernel.
pub async fn serve(stream: impl Read + Write + Unpin, view: MakeView) {
    let service = service_fn(move |request: Request<Incoming>| ready(answer(request, &view)));
    let served = http1::Builder::new().keep_alive(false).serve_connection(stream, service);
    let _ended = served.await;
}

fn answer(
    request: Request<Incoming>,
    view: &MakeView,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, _body) = request.into_parts();
    Ok(respond(&Request::from_parts(head, ()), &(view.0)()).map(Full::new))
}

/// Room for connections; more wait to be accepted. One task takes, others give back by dropping.
#[derive(Debug)]
pub struct Places {
    free: Cell<usize>,
    freed: Bell,
}

impl Places {
    /// All are free.
    #[must_use]
    pub fn new() -> Rc<Self> {
        Rc::new(Self { free: Cell::new(ADMIN_CONNS), freed: Bell::default() })
    }

    /// Waits for a free place and takes it.
    pub async fn take(self: &Rc<Self>) -> Place {
        while self.free.get() == 0 {
            self.freed.rung().await;
        }
        self.free.set(self.free.get() - 1);
        Place(Rc::clone(self))
    }
}

/// A place that is taken.
#[derive(Debug)]
pub struct Place(Rc<Places>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.free.set(self.0.free.get() + 1);
        self.0.freed.ring();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll};

    use super::*;
    use crate::wakes::Wakes;

    #[test]
    fn who_finds_no_place_gets_the_next_one_that_is_freed() {
        let (wakes, waker) = Wakes::new();
        let mut context = Context::from_waker(&waker);
        let places = Places::new();
        let mut taken = Vec::new();
        for _ in 0..ADMIN_CONNS {
            let Poll::Ready(place) = pin!(places.take()).poll(&mut context) else {
                panic!("there is room for {ADMIN_CONNS}");
            };
            taken.push(place);
        }
        let mut more = pin!(places.take());
        assert!(more.as_mut().poll(&mut context).is_pending());
        taken.pop();
        assert_eq!(wakes.count(), 1);
        assert!(more.poll(&mut context).is_ready());
    }
}
