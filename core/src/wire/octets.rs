//! A cursor that reads and one that writes: every access is checked, none allocates.
//!
//! Owns bounds checking and the walk over names (RFC 1035 section 4.1.4). Knows nothing of
//! records or sections.

use crate::limits::{HEADER_OCTETS, NAME_OCTETS};

/// Pointers followed for one name: as many as it can have labels (RFC 1035 section 2.3.4).
const POINTERS_MAX: u8 = 127;

/// The longest label (RFC 1035 section 2.3.4); octets above it announce something else.
pub(crate) const LABEL_OCTETS: u8 = 63;
/// The two bits that announce a compression pointer (RFC 1035 section 4.1.4).
const POINTER_BITS: u8 = 0xc0;

/// Reads a message from front to back. `None` means that the message is too short or malformed;
/// the cursor is then of no further use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    message: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A cursor at the first octet.
    pub(crate) const fn new(message: &'a [u8]) -> Self {
        Self { message, rest: message }
    }

    /// A cursor `position` octets into the message.
    pub(crate) fn at(message: &'a [u8], position: usize) -> Option<Self> {
        let rest = message.get(position..)?;
        Some(Self { message, rest })
    }

    /// Octets read so far.
    pub(crate) const fn position(&self) -> usize {
        self.message.len().saturating_sub(self.rest.len())
    }

    /// What has not been read.
    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn chunk<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (chunk, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*chunk)
    }

    /// The next octet.
    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.chunk::<1>().map(|[octet]| octet)
    }

    /// The next two octets as a number.
    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.chunk().map(u16::from_be_bytes)
    }

    /// The next four octets as a number.
    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.chunk().map(u32::from_be_bytes)
    }

    /// The next eight octets as a number.
    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.chunk().map(u64::from_be_bytes)
    }

    /// The next `count` octets.
    pub(crate) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    /// An uncompressed name, root octet included.
    pub(crate) fn uncompressed_name(&mut self) -> Option<&'a [u8]> {
        let start = self.rest;
        match self.labels(NAME_OCTETS)? {
            End::Root { octets } => start.get(..octets),
            End::Pointer { .. } => None,
        }
    }

    /// Passes over a name that may be compressed and writes it out without compression, in lower case;
    /// gives its length.
    pub(crate) fn expand_name(&mut self, out: &mut [u8; NAME_OCTETS]) -> Option<usize> {
        let mut reader = *self;
        self.skip_name()?; // so that the walk below comes to an end
        let mut length = 0usize;
        loop {
            let octet = reader.u8()?;
            if octet & POINTER_BITS == POINTER_BITS {
                let low = reader.u8()?;
                let target = u16::from_be_bytes([octet & !POINTER_BITS, low]);
                reader = Self::at(self.message, usize::from(target))?;
                continue;
            }
            let end = length.checked_add(usize::from(octet))?.checked_add(1)?;
            let (place, label) = out.get_mut(length..end)?.split_first_mut()?;
            *place = octet;
            label.copy_from_slice(reader.take(usize::from(octet))?);
            label.make_ascii_lowercase();
            length = end;
            if octet == 0 {
                return Some(length);
            }
        }
    }

    /// Passes over a name that may be compressed, after having checked all of it: labels, length
    /// and that each pointer goes to somewhere before the part of the name that it ends. A name has
    /// at most 127 labels; more pointers than that only cost time.
    pub(crate) fn skip_name(&mut self) -> Option<()> {
        let mut limit = self.position();
        let mut end = self.labels(NAME_OCTETS)?;
        let mut pointers = 0u8;
        // Each round has a smaller `limit`, so that no message makes this loop forever.
        while let End::Pointer { target, octets_left } = end {
            // The header holds no names; a pointer there would read the client's id.
            if target < HEADER_OCTETS || target >= limit || pointers == POINTERS_MAX {
                return None;
            }
            pointers = pointers.saturating_add(1);
            let mut segment =
                Self { message: self.message, rest: self.message.get(target..limit)? };
            end = segment.labels(octets_left)?;
            limit = target;
        }
        Some(())
    }

    /// Passes over labels up to the root octet or a pointer; `octets_left` is what the name may
    /// still be long.
    fn labels(&mut self, octets_left: usize) -> Option<End> {
        let mut left = octets_left;
        loop {
            let length = self.u8()?;
            left = left.checked_sub(1)?;
            if length == 0 {
                return Some(End::Root { octets: octets_left.checked_sub(left)? });
            }
            if length > LABEL_OCTETS {
                // The combinations 01 and 10 are reserved (RFC 6891 section 5).
                let high = length.checked_sub(POINTER_BITS)?;
                let target = usize::from(u16::from_be_bytes([high, self.u8()?]));
                // The pointer's first octet stood where the root octet of the rest will count.
                return Some(End::Pointer { target, octets_left: left.checked_add(1)? });
            }
            left = left.checked_sub(usize::from(length))?;
            self.take(usize::from(length))?;
        }
    }
}

/// How a run of labels ends.
enum End {
    /// With the root octet, `octets` after the run's start, itself included.
    Root { octets: usize },
    /// With a pointer; the rest of the name may be `octets_left` long.
    Pointer { target: usize, octets_left: usize },
}

/// Writes a message from front to back into memory of the caller. `None` means that it is full;
/// nothing was written then.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl<'a> Writer<'a> {
    /// A cursor at the start of the first `limit` octets of `out`, or of all of it.
    pub(crate) fn new(out: &'a mut [u8], limit: usize) -> Self {
        let limit = limit.min(out.len());
        let (out, _) = out.split_at_mut(limit);
        Self { out, at: 0 }
    }

    /// Octets written so far.
    pub(crate) const fn position(&self) -> usize {
        self.at
    }

    /// Octets that may still be written.
    pub(crate) const fn room(&self) -> usize {
        self.out.len().saturating_sub(self.at)
    }

    /// What was written so far.
    pub(crate) fn written(&self) -> &[u8] {
        self.out.get(..self.at).unwrap_or_default()
    }

    /// Appends octets.
    pub(crate) fn put(&mut self, octets: &[u8]) -> Option<()> {
        let room = self.out.get_mut(self.at..)?.get_mut(..octets.len())?;
        room.copy_from_slice(octets);
        self.at = self.at.checked_add(octets.len())?;
        Some(())
    }

    /// Appends a number of two octets.
    pub(crate) fn u16(&mut self, number: u16) -> Option<()> {
        self.put(&number.to_be_bytes())
    }

    /// Appends a number of four octets.
    pub(crate) fn u32(&mut self, number: u32) -> Option<()> {
        self.put(&number.to_be_bytes())
    }

    /// Appends octets and returns where they now are.
    pub(crate) fn put_mut(&mut self, octets: &[u8]) -> Option<&mut [u8]> {
        let start = self.at;
        self.put(octets)?;
        self.out.get_mut(start..self.at)
    }

    /// Overwrites two octets at `position`, which were written before.
    pub(crate) fn patch_u16(&mut self, position: usize, number: u16) -> Option<()> {
        let place = self.out.get_mut(position..self.at)?.first_chunk_mut::<2>()?;
        *place = number.to_be_bytes();
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Skips the name at `at`; returns where the cursor is then.
    fn skip(message: &[u8], at: usize) -> Option<usize> {
        let mut reader = Reader::at(message, at)?;
        reader.skip_name()?;
        Some(reader.position())
    }

    /// Twelve octets of header, then these.
    fn behind_header(octets: &[u8]) -> Vec<u8> {
        [&[0; 12], octets].concat()
    }

    #[test]
    fn pointers_go_backwards_rfc_1035_section_4_1_4() {
        let message = behind_header(b"\x01a\0\x01b\xc0\x0c\xc0\x0f\xc0\x15\xc0\x18");
        assert_eq!(skip(&message, 12), Some(15));
        assert_eq!(skip(&message, 15), Some(19), "b.a.");
        assert_eq!(skip(&message, 19), Some(21), "a pointer alone, two hops");
        assert_eq!(skip(&message, 21), None, "to itself");
        assert_eq!(skip(&message, 23), None, "forwards");
    }

    #[test]
    fn pointers_into_the_header_are_refused() {
        // Offset 4 holds a zero octet, which would do for a root.
        assert_eq!(skip(&behind_header(&[0xc0, 4]), 12), None);
    }

    #[test]
    fn a_name_cannot_run_into_the_part_that_points_at_it() {
        // At 12 a label of three octets whose last two are the pointer to 12 itself.
        let message = behind_header(b"\x03a\xc0\x0c\0\0");
        assert_eq!(skip(&message, 14), None);
        // And labels that would end exactly where the pointer stands, without a root.
        let message = behind_header(b"\x01a\xc0\x0c");
        assert_eq!(skip(&message, 14), None);
    }

    #[test]
    fn reserved_label_types_are_refused_rfc_6891_section_5() {
        for octet in 0x40..0xc0 {
            assert_eq!(skip(&behind_header(&[octet, 0, 0]), 12), None);
        }
    }

    #[test]
    fn a_name_has_255_octets_at_most_rfc_1035_section_2_3_4() {
        let label = [&[63][..], &[b'a'; 63]].concat();
        let longest = [&label[..], &label, &label, &[61], &[b'b'; 61], &[0]].concat();
        assert_eq!(longest.len(), NAME_OCTETS);
        assert_eq!(Reader::new(&longest).uncompressed_name(), Some(&longest[..]));
        let longer = [&label[..], &label, &label, &[62], &[b'b'; 62], &[0]].concat();
        assert_eq!(Reader::new(&longer).uncompressed_name(), None);

        // The same through a pointer: 253 octets behind it leave room for a label of one.
        let tail = [&label[..], &label, &label, &[59], &[b'c'; 59], &[0]].concat();
        assert_eq!(tail.len(), 253);
        let message = |prefix: &[u8]| behind_header(&[&tail[..], prefix, &[0xc0, 12]].concat());
        assert_eq!(skip(&message(b"\x01x"), 12 + 253), Some(12 + 253 + 4));
        assert_eq!(skip(&message(b"\x02xx"), 12 + 253), None);
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        for octets in [&b""[..], b"\x01", b"\x01a", b"\xc0", b"\x3faaaa"] {
            assert_eq!(skip(&behind_header(octets), 12), None, "{octets:?}");
        }
    }

    #[test]
    fn compressed_is_not_uncompressed() {
        let message = behind_header(b"\x01a\0\xc0\x0c");
        assert_eq!(Reader::at(&message, 12).unwrap().uncompressed_name(), Some(&b"\x01a\0"[..]));
        assert_eq!(Reader::at(&message, 15).unwrap().uncompressed_name(), None);
    }

    #[test]
    fn a_full_writer_writes_nothing_more() {
        let mut memory = [9; 4];
        let mut writer = Writer::new(&mut memory, 3);
        assert_eq!(writer.u16(0x0102), Some(()));
        assert_eq!(writer.u16(0x0304), None);
        assert_eq!(writer.patch_u16(1, 7), None, "octet 2 was not written");
        assert_eq!(writer.patch_u16(0, 0x0506), Some(()));
        assert_eq!(writer.written(), [5, 6]);
        assert_eq!(memory, [5, 6, 9, 9]);
    }
}
