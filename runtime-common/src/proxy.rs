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

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;

    /// A stream that gives one octet at a time, or as many as are asked for.
    struct Given {
        octets: Vec<u8>,
        at_once: usize,
    }

    impl Octets for Given {
        fn poll_read(&mut self, _: &mut Context<'_>, memory: &mut [u8]) -> Poll<io::Result<usize>> {
            let octets = memory.len().min(self.at_once).min(self.octets.len());
            for (place, octet) in memory.iter_mut().zip(self.octets.drain(..octets)) {
                *place = octet;
            }
            Poll::Ready(Ok(octets))
        }

        fn poll_write(&mut self, _: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(octets.len()))
        }

        fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// What is announced, and what is left to read.
    fn read(octets: &[u8], at_once: usize) -> (io::Result<Option<SocketAddr>>, Vec<u8>) {
        let mut stream = Given { octets: octets.to_vec(), at_once };
        let result = {
            let mut reading = Box::pin(read_header(&mut stream));
            let context = &mut Context::from_waker(Waker::noop());
            match reading.as_mut().poll(context) {
                Poll::Ready(result) => result,
                Poll::Pending => panic!("never waits"),
            }
        };
        (result, stream.octets)
    }

    #[test]
    fn nothing_is_read_beyond_the_header() {
        let text = b"PROXY TCP4 192.0.2.1 192.0.2.2 53000 853\r\n".to_vec();
        let long = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x01\x90"[..], &[192, 0, 2, 1, 192, 0, 2, 2]];
        let long = [&long.concat()[..], &[0xcf, 0x08, 3, 0x55], &[0; 388]].concat();
        let expected: SocketAddr = "192.0.2.1:53000".parse().expect("valid");
        for header in [text, long] {
            let whole = [&header[..], b"\x16\x03\x01"].concat();
            for at_once in [1, usize::MAX] {
                let (announced, rest) = read(&whole, at_once);
                assert_eq!(announced.expect("is one"), Some(expected));
                assert_eq!(rest, b"\x16\x03\x01");
            }
            let (cut, _) = read(&header[..header.len() - 1], usize::MAX);
            assert_eq!(cut.expect_err("is cut").kind(), io::ErrorKind::UnexpectedEof);
        }
        let (other, _) = read(b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", usize::MAX);
        assert_eq!(other.expect_err("is none").kind(), io::ErrorKind::InvalidData);
    }
}
