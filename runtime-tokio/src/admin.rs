//! The HTTP server of metrics and health. What is answered is decided in `balancedns_core::admin`.

use std::convert::Infallible;
use std::future::ready;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use balancedns_core::admin::{View, respond};
use balancedns_core::limits::ADMIN_CONNS;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

/// From accepting a connection to the end of its only answer, slow senders and readers included.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(3);
/// Wait after an accept that failed: most often the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Makes what is shown.
pub(crate) type MakeView = Rc<dyn Fn() -> View>;

/// Serves connections for ever.
pub(crate) async fn serve(listener: TcpListener, view: MakeView) {
    let places = Arc::new(Semaphore::new(ADMIN_CONNS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        let place = place.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                let view = Rc::clone(&view);
                spawn_local(async move {
                    // Whatever goes wrong is between the client and the kernel.
                    let _ended = timeout(CONNECTION_TIMEOUT, serve_one(stream, view)).await;
                    drop(place);
                });
            }
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn serve_one(stream: TcpStream, view: MakeView) -> hyper::Result<()> {
    let service = service_fn(move |request: Request<Incoming>| ready(answer(request, &view)));
    http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service).await
}

fn answer(
    request: Request<Incoming>,
    view: &MakeView,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, _body) = request.into_parts();
    Ok(respond(&Request::from_parts(head, ()), &view()).map(Full::new))
}
