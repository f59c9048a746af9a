//! Messages on a stream: each behind two octets of length (RFC 1035 section 4.2.2, RFC 7766 section 8).
//!
//! Takes octets in whatever pieces they come, gives whole messages. A piece that holds whole
//! messages is read in place; only a message that is cut is copied.

use crate::limits::MESSAGE_OCTETS;

/// Octets of a stream that do not yet make whole messages.
#[derive(Debug, Default)]
pub(crate) struct Reassembly {
    buffer: Vec<u8>,
}

/// The first message of `bytes` and what comes after it, or `None` if it is not whole yet.
pub(crate) fn split_message(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    let length = usize::from(u16::from_be_bytes(*length));
    (rest.len() >= length).then(|| rest.split_at(length))
}

/// Appends a message with its length in front.
///
/// # Panics
/// If the message is longer than two octets can say; whoever assembles messages keeps that bound.
pub(crate) fn append_message(out: &mut bytes::BytesMut, message: &[u8]) {
    let length = u16::try_from(message.len()).expect("no message exceeds MESSAGE_OCTETS");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(message);
}

impl Reassembly {
    /// Whether part of a message waits for the rest.
    pub(crate) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Keeps octets for later.
    pub(crate) fn keep(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Takes all that waits; give back the unused end with [`put_back`](Self::put_back).
    pub(crate) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer)
    }

    /// Gives back what [`take`](Self::take) took, less the first `used` octets.
    pub(crate) fn put_back(&mut self, mut taken: Vec<u8>, used: usize) {
        if used == taken.len() {
            taken.clear();
        } else if used > 0 {
            taken.drain(..used);
        }
        taken.extend_from_slice(&self.buffer);
        if taken.is_empty() && taken.capacity() > MESSAGE_OCTETS {
            taken = Vec::new(); // one large message must not cost memory for ever
        }
        self.buffer = taken;
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However the stream is cut, the same messages come out.
        #[test]
        fn any_cut_gives_the_same_messages(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..8),
            cuts in prop::collection::vec(1..20usize, 1..60),
        ) {
            let mut stream = BytesMut::new();
            for message in &messages {
                append_message(&mut stream, message);
            }
            let mut reassembly = Reassembly::default();
            let mut seen: Vec<Vec<u8>> = Vec::new();
            let mut rest = &stream[..];
            let mut cuts = cuts.iter().cycle();
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(rest.len().min(*cuts.next().expect("cycle")));
                rest = after;
                reassembly.keep(piece);
                let taken = reassembly.take();
                let mut left = &taken[..];
                while let Some((message, after)) = split_message(left) {
                    seen.push(message.to_vec());
                    left = after;
                }
                let used = taken.len() - left.len();
                reassembly.put_back(taken, used);
            }
            prop_assert_eq!(seen, messages);
            prop_assert!(reassembly.is_empty());
        }

        /// Whoever takes less than there is finds the rest, in front of what came meanwhile.
        #[test]
        fn nothing_is_lost_or_turned_around(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 1..20),
            uses in prop::collection::vec(any::<prop::sample::Index>(), 20),
        ) {
            let mut reassembly = Reassembly::default();
            let mut used_in_all = Vec::new();
            for (piece, used) in pieces.iter().zip(uses) {
                let (before, meanwhile) = piece.split_at(piece.len() / 2);
                reassembly.keep(before);
                let taken = reassembly.take();
                prop_assert!(reassembly.is_empty());
                reassembly.keep(meanwhile);
                let used = used.index(taken.len() + 1);
                used_in_all.extend_from_slice(&taken[..used]);
                reassembly.put_back(taken, used);
            }
            used_in_all.extend(reassembly.take());
            prop_assert_eq!(used_in_all, pieces.concat());
        }
    }
    #[test]
    fn one_large_message_does_not_cost_memory_for_ever() {
        let mut reassembly = Reassembly::default();
        reassembly.keep(&vec![0; 2 * MESSAGE_OCTETS]);
        let taken = reassembly.take();
        let all = taken.len();
        reassembly.put_back(taken, all);
        assert!(reassembly.buffer.capacity() <= MESSAGE_OCTETS);
    }

    #[test]
    fn the_longest_message_fits_its_length() {
        let mut stream = BytesMut::new();
        append_message(&mut stream, &vec![7; MESSAGE_OCTETS]);
        append_message(&mut stream, &[]);
        let (longest, rest) = split_message(&stream).expect("whole");
        assert_eq!(longest.len(), MESSAGE_OCTETS);
        assert_eq!(split_message(rest), Some((&[][..], &[][..])));
    }
}
