//! The fixed header of a message (RFC 1035 section 4.1.1, RFC 4035 section 3.2 for AD and CD).

use super::octets::Reader;

/// The 16 flag bits of the header.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Flags(pub u16);

impl Flags {
    /// Response.
    pub const QR: u16 = 0x8000;
    /// Authoritative answer.
    pub const AA: u16 = 0x0400;
    /// Truncated.
    pub const TC: u16 = 0x0200;
    /// Recursion desired.
    pub const RD: u16 = 0x0100;
    /// Recursion available.
    pub const RA: u16 = 0x0080;
    /// Authentic data (RFC 6840 section 5.7 for its meaning in queries).
    pub const AD: u16 = 0x0020;
    /// Checking disabled.
    pub const CD: u16 = 0x0010;
    /// The four bits of the opcode.
    pub const OPCODE: u16 = 0x7800;
    /// The four bits of the rcode.
    pub const RCODE: u16 = 0x000f;

    /// The opcode; 0 is QUERY.
    #[must_use]
    pub const fn opcode(self) -> u8 {
        (self.0.to_be_bytes()[0] >> 3) & 0x0f
    }

    /// The low four bits of the rcode.
    #[must_use]
    pub const fn rcode(self) -> u8 {
        self.0.to_be_bytes()[1] & 0x0f
    }

    /// Whether all bits of `mask` are set.
    #[must_use]
    pub const fn contains(self, mask: u16) -> bool {
        self.0 & mask == mask
    }
}

/// The header, read.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Header {
    pub(crate) id: u16,
    pub(crate) flags: Flags,
    pub(crate) questions: u16,
    pub(crate) answers: u16,
    pub(crate) authorities: u16,
    pub(crate) additionals: u16,
}

impl Header {
    /// The header at the cursor; `None` if fewer than twelve octets are left.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            id: reader.u16()?,
            flags: Flags(reader.u16()?),
            questions: reader.u16()?,
            answers: reader.u16()?,
            authorities: reader.u16()?,
            additionals: reader.u16()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_where_rfc_1035_section_4_1_1_puts_them() {
        let flags = Flags(0b1010_1101_1001_0011);
        assert_eq!(flags.opcode(), 5);
        assert_eq!(flags.rcode(), 3);
        assert!(flags.contains(Flags::QR | Flags::AA | Flags::RD | Flags::RA | Flags::CD));
        assert!(!flags.contains(Flags::TC));
        assert!(!flags.contains(Flags::AD | Flags::QR));
    }

    #[test]
    fn a_header_is_twelve_octets() {
        let octets = [0x12, 0x34, 1, 0x20, 0, 1, 0, 2, 0, 3, 0, 4];
        let header = Header::read(&mut Reader::new(&octets)).unwrap();
        assert_eq!((header.id, header.flags), (0x1234, Flags(0x0120)));
        assert_eq!((header.questions, header.answers), (1, 2));
        assert_eq!((header.authorities, header.additionals), (3, 4));
        assert!(Header::read(&mut Reader::new(&octets[..11])).is_none());
    }
}
