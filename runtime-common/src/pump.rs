//! Moves octets both ways between a stream and the engine.
//!
//! Owns the order and the fairness of reading and writing, and how a stream is finished. Knows the
//! stream as [`Octets`], which each daemon implements for those of its async runtime, and the
//! engine as [`Told`]. There is no timer in here: the engine owns all deadlines of a connection,
//! and the worker bounds how long finishing may take.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use balancedns_core::engine::CloseMode;
use balancedns_core::handle::ConnHandle;
use bytes::{Buf, Bytes};

use crate::conn::Conn;

/// Reads and writes of one connection before others get their turn.
const STEPS_PER_TURN: usize = 16;
/// Reads at most of what came after the end, before closing.
const READS_AFTER_END: usize = 16;

/// A stream that carries octets both ways. Where a method is not ready, it wakes the task once it
/// may be.
pub trait Octets {
    /// Reads some. None at all: the other side has ended its stream.
    fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        memory: &mut [u8],
    ) -> Poll<io::Result<usize>>;

    /// Writes some, at least one.
    fn poll_write(&mut self, context: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>>;

    /// Passes on what the stream itself keeps back.
    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Tells the other side that nothing more comes.
    fn poll_close(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// Reads some. A session of TLS that ends without the farewell of RFC 8446 section 6.1 has ended all
/// the same: every message on it has its length, so that none can be cut short unnoticed.
pub(crate) fn poll_read(
    stream: &mut impl Octets,
    context: &mut Context<'_>,
    memory: &mut [u8],
) -> Poll<io::Result<usize>> {
    stream.poll_read(context, memory).map(|result| match result {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
        result => result,
    })
}

/// Who is told what happens on a connection, and may change its wishes at once.
pub trait Told {
    /// So many octets of what was to be sent are.
    fn written(&self, conn: ConnHandle, octets: usize);
    /// These came.
    fn received(&self, conn: ConnHandle, octets: &[u8]);
    /// The other side has ended its stream.
    fn ended(&self, conn: ConnHandle);
}

/// Moves octets until the engine wants an end; `memory` is what a read may fill at once.
///
/// # Errors
/// What broke the connection.
pub async fn pump(
    told: &impl Told,
    conn: &Conn,
    stream: &mut impl Octets,
    memory: &RefCell<Box<[u8]>>,
) -> io::Result<CloseMode> {
    let mut pump = Pump { told, conn, stream, memory, ended_reading: false };
    poll_fn(|context| pump.poll(context)).await
}

struct Pump<'a, T, S> {
    told: &'a T,
    conn: &'a Conn,
    stream: &'a mut S,
    memory: &'a RefCell<Box<[u8]>>,
    ended_reading: bool,
}

impl<T: Told, S: Octets> Pump<'_, T, S> {
    /// One look of a connection's task at everything.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<CloseMode>> {
        for _ in 0..STEPS_PER_TURN {
            if let Some(mode) = self.close() {
                return Poll::Ready(Ok(mode));
            }
            // Writing first: it makes room for what reading brings.
            let wrote = self.write(context)?;
            let read = self.close().is_none() && self.read(context)?;
            if !wrote && !read {
                // What was wished for meanwhile is seen here, since nothing runs in between.
                return self.conn.poll_closed(context).map(Ok);
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn close(&self) -> Option<CloseMode> {
        self.conn.wishes().close
    }

    /// Writes of the queue what can be written at once. Whether anything was.
    fn write(&mut self, context: &mut Context<'_>) -> io::Result<bool> {
        let mut total = 0;
        let blocked = loop {
            match write_front(&mut self.conn.wishes_mut().queue, self.stream, context)? {
                Step::Moved(octets) => total += octets,
                Step::Blocked => break true,
                Step::Nothing => break false,
            }
        };
        if total == 0 {
            return Ok(false);
        }
        if !blocked && let Poll::Ready(flushed) = self.stream.poll_flush(context) {
            // For streams with a buffer of their own; where it takes longer, this task is woken.
            flushed?;
        }
        self.told.written(self.conn.handle(), total);
        Ok(true)
    }

    /// Reads once, if reading is wanted. Whether anything came.
    fn read(&mut self, context: &mut Context<'_>) -> io::Result<bool> {
        if self.ended_reading || self.conn.wishes().paused {
            return Ok(false);
        }
        let mut memory = self.memory.borrow_mut();
        let octets = match poll_read(self.stream, context, &mut memory)? {
            Poll::Pending => return Ok(false),
            Poll::Ready(octets) => &memory[..octets],
        };
        if octets.is_empty() {
            self.ended_reading = true;
            self.told.ended(self.conn.handle());
        } else {
            self.told.received(self.conn.handle(), octets);
        }
        Ok(true)
    }
}

/// What came of trying to write.
enum Step {
    Moved(usize),
    Blocked,
    Nothing,
}

fn write_front(
    queue: &mut VecDeque<Bytes>,
    stream: &mut impl Octets,
    context: &mut Context<'_>,
) -> io::Result<Step> {
    let Some(front) = queue.front_mut() else {
        return Ok(Step::Nothing);
    };
    match stream.poll_write(context, front)? {
        Poll::Pending => Ok(Step::Blocked),
        Poll::Ready(0) => Err(io::ErrorKind::WriteZero.into()),
        Poll::Ready(octets) => {
            front.advance(octets);
            if front.is_empty() {
                queue.pop_front();
            }
            Ok(Step::Moved(octets))
        }
    }
}

/// Sends what is left, says that nothing more comes, and takes what the other side has sent in vain:
/// closing a socket with unread octets resets it, which can destroy answers on their way.
///
/// # Errors
/// What broke the connection: nobody is left to be told.
pub(crate) async fn finish(
    conn: &Conn,
    stream: &mut impl Octets,
    memory: &RefCell<Box<[u8]>>,
) -> io::Result<()> {
    poll_fn(|context| {
        loop {
            match write_front(&mut conn.wishes_mut().queue, stream, context)? {
                Step::Moved(_) => {}
                Step::Blocked => return Poll::Pending,
                Step::Nothing => return stream.poll_close(context),
            }
        }
    })
    .await?;
    poll_fn(|context| {
        for _ in 0..READS_AFTER_END {
            match poll_read(stream, context, &mut memory.borrow_mut())? {
                Poll::Ready(1..) => {}
                Poll::Ready(0) | Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(()))
    })
    .await
}

#[cfg(test)]
mod tests;
