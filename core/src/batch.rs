//! Batches of datagrams: memory that the caller owns, filled by one system call and emptied by few.
//!
//! Both are arrays of fixed slots in one allocation. Nothing here allocates after construction.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::handle::{ListenerId, SocketHandle};
use crate::planted::{Bug, is_planted};

const NO_PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// What came with a received datagram.
#[derive(Clone, Copy, Debug)]
pub struct ReceiveMeta {
    /// The sender.
    pub peer: SocketAddr,
    /// The address the datagram was sent to, where the socket is bound to all addresses.
    pub local: Option<IpAddr>,
    /// Bytes in the slot.
    pub len: usize,
    /// The datagram was longer than the slot: its end is lost.
    pub truncated: bool,
}

const NO_META: ReceiveMeta = ReceiveMeta { peer: NO_PEER, local: None, len: 0, truncated: false };

/// Datagrams received from one socket.
#[derive(Debug)]
pub struct ReceiveBatch {
    bytes: Box<[u8]>,
    meta: Box<[ReceiveMeta]>,
    slot_size: usize,
    len: usize,
}

impl ReceiveBatch {
    /// Room for `slots` datagrams of at most `slot_size` bytes, both at least 1.
    #[must_use]
    pub fn new(slots: usize, slot_size: usize) -> Self {
        let (slots, slot_size) = (slots.max(1), slot_size.max(1));
        Self {
            bytes: vec![0; slots * slot_size].into(),
            meta: vec![NO_META; slots].into(),
            slot_size,
            len: 0,
        }
    }

    /// How many datagrams are in.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no datagram is in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many datagrams fit.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.meta.len()
    }

    /// Forgets all datagrams.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// All slots, for a system call to fill; then call [`set`](Self::set) for each one filled and
    /// [`set_len`](Self::set_len) once.
    pub fn slots_mut(&mut self) -> std::slice::ChunksExactMut<'_, u8> {
        self.bytes.chunks_exact_mut(self.slot_size)
    }

    /// Says what came into a slot. A length above the slot's size is cut.
    pub fn set(&mut self, slot: usize, meta: ReceiveMeta) {
        self.meta[slot] = ReceiveMeta { len: meta.len.min(self.slot_size), ..meta };
    }

    /// Says how many slots are filled, from the first on; at most the capacity.
    pub fn set_len(&mut self, len: usize) {
        self.len = len.min(self.capacity());
    }

    /// Copies a datagram in.
    ///
    /// # Errors
    /// [`BatchFull`] when there is no slot left.
    pub fn push(
        &mut self,
        peer: SocketAddr,
        local: Option<IpAddr>,
        bytes: &[u8],
    ) -> Result<(), BatchFull> {
        if self.len == self.capacity() {
            return Err(BatchFull);
        }
        let start = self.len * self.slot_size;
        let len = bytes.len().min(self.slot_size);
        self.bytes[start..start + len].copy_from_slice(&bytes[..len]);
        self.meta[self.len] = ReceiveMeta { peer, local, len, truncated: len < bytes.len() };
        self.len += 1;
        Ok(())
    }

    /// The datagrams, in order of arrival.
    pub fn iter(&self) -> impl Iterator<Item = (&ReceiveMeta, &[u8])> {
        let slots = self.bytes.chunks_exact(self.slot_size);
        let lost = usize::from(is_planted(Bug::LastOfBatchLost) && self.len > 1);
        self.meta[..self.len - lost].iter().zip(slots).map(|(meta, slot)| (meta, &slot[..meta.len]))
    }
}

/// There was no slot left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the batch is full")]
pub struct BatchFull;

/// Which socket a datagram leaves by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// A listener's socket, to `peer`, from `source` where the listener is bound to all addresses.
    Listener {
        /// The listener that the query came to.
        listener: ListenerId,
        /// Where to.
        peer: SocketAddr,
        /// Which of our addresses the peer had asked.
        source: Option<IpAddr>,
    },
    /// A connected socket towards an upstream.
    Socket(SocketHandle),
}

/// Where one datagram of a [`TransmitBatch`] is, and where it goes.
#[derive(Clone, Copy, Debug)]
pub struct TransmitMeta {
    /// The socket it leaves by.
    pub via: Via,
    /// Bytes in the slot.
    pub len: usize,
}

/// Datagrams to be sent.
#[derive(Debug)]
pub struct TransmitBatch {
    bytes: Box<[u8]>,
    meta: Box<[TransmitMeta]>,
    slot_size: usize,
    len: usize,
}

impl TransmitBatch {
    /// Room for `slots` datagrams of at most `slot_size` bytes, both at least 1.
    #[must_use]
    pub fn new(slots: usize, slot_size: usize) -> Self {
        let (slots, slot_size) = (slots.max(1), slot_size.max(1));
        let via = Via::Listener { listener: ListenerId(0), peer: NO_PEER, source: None };
        Self {
            bytes: vec![0; slots * slot_size].into(),
            meta: vec![TransmitMeta { via, len: 0 }; slots].into(),
            slot_size,
            len: 0,
        }
    }

    /// How many datagrams wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Slots left.
    #[must_use]
    pub fn room(&self) -> usize {
        self.meta.len() - self.len
    }

    /// Forgets all datagrams.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// The next free slot, to be written and then committed. Left uncommitted, it stays free.
    pub fn reserve(&mut self) -> Option<TransmitSlot<'_>> {
        if self.room() == 0 {
            return None;
        }
        Some(TransmitSlot { batch: self })
    }

    /// The datagrams, in the order in which they are to be sent.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&TransmitMeta, &[u8])> {
        let slots = self.bytes.chunks_exact(self.slot_size);
        self.meta[..self.len].iter().zip(slots).map(|(meta, slot)| (meta, &slot[..meta.len]))
    }
}

/// A reserved slot of a [`TransmitBatch`].
#[derive(Debug)]
pub struct TransmitSlot<'a> {
    batch: &'a mut TransmitBatch,
}

impl TransmitSlot<'_> {
    /// The slot's memory, whole. It holds whatever was there before.
    pub fn buffer(&mut self) -> &mut [u8] {
        let start = self.batch.len * self.batch.slot_size;
        &mut self.batch.bytes[start..start + self.batch.slot_size]
    }

    /// Makes the first `len` bytes a datagram to be sent.
    pub fn commit(self, via: Via, len: usize) {
        assert!(len <= self.batch.slot_size, "a datagram fits the slot it was written into");
        self.batch.meta[self.batch.len] = TransmitMeta { via, len };
        self.batch.len += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_not_committed_is_rolled_back() {
        let mut batch = TransmitBatch::new(1, 4);
        let via = Via::Listener { listener: ListenerId(3), peer: NO_PEER, source: None };
        batch.reserve().expect("room").buffer()[0] = 9;
        assert!(batch.is_empty());
        let mut slot = batch.reserve().expect("room");
        slot.buffer()[..2].copy_from_slice(b"ab");
        slot.commit(via, 2);
        assert!(batch.reserve().is_none());
        let (meta, bytes) = batch.iter().next().expect("one");
        assert_eq!((meta.via, bytes), (via, &b"ab"[..]));
    }

    #[test]
    fn a_long_datagram_is_marked_truncated() {
        let mut batch = ReceiveBatch::new(2, 3);
        batch.push(NO_PEER, None, b"abcd").expect("room");
        batch.push(NO_PEER, None, b"abc").expect("room");
        assert_eq!(batch.push(NO_PEER, None, b"x"), Err(BatchFull));
        let seen: Vec<_> = batch.iter().map(|(m, b)| (m.truncated, b.to_vec())).collect();
        assert_eq!(seen, [(true, b"abc".to_vec()), (false, b"abc".to_vec())]);
    }

    #[test]
    fn a_system_call_may_fill_the_slots() {
        let mut batch = ReceiveBatch::new(3, 4);
        assert!(batch.is_empty());
        for slot in batch.slots_mut().take(2) {
            slot.copy_from_slice(b"abcd");
        }
        let local = Some(NO_PEER.ip());
        batch.set(0, ReceiveMeta { local, len: 2, ..NO_META });
        batch.set(1, ReceiveMeta { len: 9, truncated: true, ..NO_META });
        batch.set_len(2);
        assert_eq!((batch.len(), batch.is_empty(), batch.capacity()), (2, false, 3));
        let seen: Vec<_> = batch.iter().map(|(m, b)| (m.local, m.truncated, b.to_vec())).collect();
        assert_eq!(seen, [(local, false, b"ab".to_vec()), (None, true, b"abcd".to_vec())]);
        batch.set_len(9);
        assert_eq!(batch.len(), 3, "no more than there are slots");
        batch.clear();
        assert_eq!(batch.iter().count(), 0);
    }
}
