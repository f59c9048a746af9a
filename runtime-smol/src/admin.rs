//! The HTTP server of metrics and health on smol: accepts connections within bounds.

use std::io;
use std::net::TcpListener as StdTcpListener;

use balancedns_runtime::admin::{self, ACCEPT_PAUSE, CONNECTION_TIMEOUT, MakeView, Places};
use smol::net::TcpListener;
use smol_hyper::rt::FuturesIo;

use crate::local::{sleep, spawn_local, timeout};

/// Serves connections as long as the thread runs.
///
/// # Errors
/// The socket cannot be watched.
pub(crate) fn start(listener: StdTcpListener, view: MakeView) -> io::Result<()> {
    let listener = TcpListener::try_from(listener)?;
    spawn_local(serve(listener, view)).detach();
    Ok(())
}

async fn serve(listener: TcpListener, view: MakeView) {
    let places = Places::new();
    loop {
        let place = places.take().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                let served = admin::serve(FuturesIo::new(stream), view.clone());
                let bounded = async move {
                    let _late = timeout(CONNECTION_TIMEOUT, served).await;
                    drop(place);
                };
                spawn_local(bounded).detach();
            }
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}
