//! Reads the PROXY protocol header of a connection, octet-exact: what follows it is for TLS or DNS.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::Poll;

use balancedns_core::proxy::{Progress, parse};

use crate::pump::Octets;

/// Octets asked for at once. Longer headers take more reads.
const READ_OCTETS: usize = 256;

/// Whom the proxy announces, if it announces anybody.
///
/// # Errors
/// The stream broke or ended, or began with something else.
pub(crate) async fn read_header(stream: &mut impl Octets) -> io::Result<Option<SocketAddr>> {
    let mut header = Vec::new();
    poll_fn(|context| {
        loop {
            let wanted = match parse(&header) {
                Ok(Progress::Done(found)) => return Poll::Ready(Ok(found.client)),
                Ok(Progress::More(octets)) => octets,
                Err(error) => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
                }
            };
            let mut memory = [0; READ_OCTETS];
            let room = &mut memory[..wanted.min(READ_OCTETS)];
            match stream.poll_read(context, room)? {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Poll::Ready(octets) => header.extend_from_slice(&room[..octets]),
            }
        }
    })
    .await
}
