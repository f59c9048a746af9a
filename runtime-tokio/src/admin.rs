//! The HTTP server of metrics and health on tokio: accepts connections within bounds.

use std::io;
use std::net::TcpListener as StdTcpListener;

use balancedns_runtime::admin::{self, ACCEPT_PAUSE, CONNECTION_TIMEOUT, MakeView, Places};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

/// Serves connections as long as the thread runs.
///
/// # Errors
/// The socket cannot be watched.
pub(crate) fn start(listener: StdTcpListener, view: MakeView) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    spawn_local(serve(listener, view));
    Ok(())
}

async fn serve(listener: TcpListener, view: MakeView) {
    let places = Places::new();
    loop {
        let place = places.take().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                let served = admin::serve(TokioIo::new(stream), view.clone());
                let bounded = async move {
                    let _late = timeout(CONNECTION_TIMEOUT, served).await;
                    drop(place);
                };
                spawn_local(bounded);
            }
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}
