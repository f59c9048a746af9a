//! Numbers that IANA assigns: rcodes, record types and classes, extended errors, with their names.
//!
//! Each is a plain number, since each may carry a value that nobody knows yet; nothing is rejected
//! here.

use std::borrow::Cow;
use std::fmt;

/// A response code, with the eight high bits of an OPT record (RFC 6891 section 6.1.3): 12 bits.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct Rcode(pub u16);

impl Rcode {
    /// No error (RFC 1035 section 4.1.1, as are those up to `REFUSED`).
    pub const NOERROR: Self = Self(0);
    /// The query could not be read.
    pub const FORMERR: Self = Self(1);
    /// The server failed.
    pub const SERVFAIL: Self = Self(2);
    /// The name does not exist.
    pub const NXDOMAIN: Self = Self(3);
    /// This kind of query is not implemented.
    pub const NOTIMP: Self = Self(4);
    /// The server does not want to.
    pub const REFUSED: Self = Self(5);
    /// A name exists that should not (RFC 2136 section 2.2; RFC 6672 section 2.2 for DNAME).
    pub const YXDOMAIN: Self = Self(6);
    /// A set of records exists that should not (RFC 2136 section 2.2).
    pub const YXRRSET: Self = Self(7);
    /// A set of records does not exist that should (RFC 2136 section 2.2).
    pub const NXRRSET: Self = Self(8);
    /// Not authoritative, or not authorized (RFC 2136 section 2.2, RFC 8945 section 5.2).
    pub const NOTAUTH: Self = Self(9);
    /// The name is not in the zone (RFC 2136 section 2.2).
    pub const NOTZONE: Self = Self(10);
    /// The EDNS version is not implemented (RFC 6891 section 9).
    pub const BADVERS: Self = Self(16);
    /// The server wants a cookie (RFC 7873 section 8).
    pub const BADCOOKIE: Self = Self(23);

    /// Those with a name. Codes that only TSIG and TKEY records carry are not rcodes of a message.
    const NAMES: [(Self, &'static str); 13] = [
        (Self::NOERROR, "NOERROR"),
        (Self::FORMERR, "FORMERR"),
        (Self::SERVFAIL, "SERVFAIL"),
        (Self::NXDOMAIN, "NXDOMAIN"),
        (Self::NOTIMP, "NOTIMP"),
        (Self::REFUSED, "REFUSED"),
        (Self::YXDOMAIN, "YXDOMAIN"),
        (Self::YXRRSET, "YXRRSET"),
        (Self::NXRRSET, "NXRRSET"),
        (Self::NOTAUTH, "NOTAUTH"),
        (Self::NOTZONE, "NOTZONE"),
        (Self::BADVERS, "BADVERS"),
        (Self::BADCOOKIE, "BADCOOKIE"),
    ];

    /// The mnemonic, `RCODE17` where there is none.
    #[must_use]
    pub fn name(self) -> Cow<'static, str> {
        match Self::NAMES.iter().find(|(code, _)| *code == self) {
            Some((_, name)) => Cow::Borrowed(name),
            None => Cow::Owned(format!("RCODE{}", self.0)),
        }
    }

    /// The code with this mnemonic, in any letter case; `RCODE17` for those without one.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        if let Some((code, _)) =
            Self::NAMES.iter().find(|(_, known)| known.eq_ignore_ascii_case(name))
        {
            return Some(*code);
        }
        numbered(name, "RCODE").filter(|&code| code <= 0x0fff).map(Self)
    }

    /// The four bits that the header holds.
    #[must_use]
    pub const fn low(self) -> u16 {
        self.0 & 0x000f
    }

    /// The eight bits that an OPT record holds.
    #[must_use]
    pub const fn high(self) -> u8 {
        (self.0 >> 4).to_be_bytes()[1]
    }
}

/// The type of a record or question.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct RecordType(pub u16);

/// Declares the types' constants and their table of names from one list.
macro_rules! record_types {
    ($($(#[$doc:meta])* $name:ident = $number:literal;)*) => {
        impl RecordType {
            $($(#[$doc])* pub const $name: Self = Self($number);)*

            const NAMES: &'static [(Self, &'static str)] =
                &[$((Self::$name, stringify!($name)),)*];
        }
    };
}

record_types! {
    /// IPv4 address (RFC 1035 section 3.4.1).
    A = 1;
    /// Name server (RFC 1035 section 3.3.11).
    NS = 2;
    /// Other name of (RFC 1035 section 3.3.1).
    CNAME = 5;
    /// Start of authority (RFC 1035 section 3.3.13).
    SOA = 6;
    /// Any octets (RFC 1035 section 3.3.10).
    NULL = 10;
    /// Pointer to a name (RFC 1035 section 3.3.12).
    PTR = 12;
    /// Host information (RFC 1035 section 3.3.2; RFC 8482 answers ANY with it).
    HINFO = 13;
    /// Mail exchange (RFC 1035 section 3.3.9).
    MX = 15;
    /// Text (RFC 1035 section 3.3.14).
    TXT = 16;
    /// Signature of old; of a message, if it covers type 0 (RFC 2931).
    SIG = 24;
    /// Key of old (RFC 2535).
    KEY = 25;
    /// IPv6 address (RFC 3596).
    AAAA = 28;
    /// Location (RFC 1876).
    LOC = 29;
    /// Server selection (RFC 2782).
    SRV = 33;
    /// Rules that rewrite names (RFC 3403).
    NAPTR = 35;
    /// Certificate (RFC 4398).
    CERT = 37;
    /// Other name of a subtree (RFC 6672).
    DNAME = 39;
    /// EDNS (RFC 6891).
    OPT = 41;
    /// Delegation signer (RFC 4034).
    DS = 43;
    /// SSH key fingerprint (RFC 4255).
    SSHFP = 44;
    /// Signature (RFC 4034).
    RRSIG = 46;
    /// Next name (RFC 4034).
    NSEC = 47;
    /// Key (RFC 4034).
    DNSKEY = 48;
    /// Next name, hashed (RFC 5155).
    NSEC3 = 50;
    /// Parameters of NSEC3 (RFC 5155).
    NSEC3PARAM = 51;
    /// TLS certificate association (RFC 6698).
    TLSA = 52;
    /// S/MIME certificate association (RFC 8162).
    SMIMEA = 53;
    /// Child's DS (RFC 7344).
    CDS = 59;
    /// Child's DNSKEY (RFC 7344).
    CDNSKEY = 60;
    /// OpenPGP key (RFC 7929).
    OPENPGPKEY = 61;
    /// Child to parent synchronisation (RFC 7477).
    CSYNC = 62;
    /// Service binding (RFC 9460).
    SVCB = 64;
    /// Service binding for HTTPS (RFC 9460).
    HTTPS = 65;
    /// Sender policy of old (RFC 7208 section 3.1).
    SPF = 99;
    /// Key exchange for TSIG (RFC 2930).
    TKEY = 249;
    /// Signature of a message (RFC 8945).
    TSIG = 250;
    /// Incremental zone transfer (RFC 1995).
    IXFR = 251;
    /// Zone transfer (RFC 5936).
    AXFR = 252;
    /// Records of whatever type (RFC 8482).
    ANY = 255;
    /// URI (RFC 7553).
    URI = 256;
    /// Certification authority authorization (RFC 8659).
    CAA = 257;
}

impl RecordType {
    /// The type with this mnemonic, in any letter case; `TYPE65280` for those without one
    /// (RFC 3597 section 5).
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match Self::NAMES.iter().find(|(_, known)| known.eq_ignore_ascii_case(name)) {
            Some((record_type, _)) => Some(*record_type),
            None => numbered(name, "TYPE").map(Self),
        }
    }
}

impl fmt::Display for RecordType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMES.iter().find(|(record_type, _)| record_type == self) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "TYPE{}", self.0),
        }
    }
}

/// The class of a record or question.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct RecordClass(pub u16);

impl RecordClass {
    /// The Internet.
    pub const IN: Self = Self(1);
    /// Chaosnet; in use for questions about the server itself (RFC 4892).
    pub const CH: Self = Self(3);
    /// Hesiod.
    pub const HS: Self = Self(4);
    /// No class (RFC 2136).
    pub const NONE: Self = Self(254);
    /// Any class.
    pub const ANY: Self = Self(255);
}

impl fmt::Display for RecordClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::IN => f.write_str("IN"),
            Self::CH => f.write_str("CH"),
            Self::HS => f.write_str("HS"),
            Self::NONE => f.write_str("NONE"),
            Self::ANY => f.write_str("ANY"),
            Self(other) => write!(f, "CLASS{other}"),
        }
    }
}

/// The INFO-CODE of an Extended DNS Error (RFC 8914 section 4).
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct ExtendedError(pub u16);

impl ExtendedError {
    /// Something else.
    pub const OTHER: Self = Self(0);
    /// The answer is past its TTL.
    pub const STALE_ANSWER: Self = Self(3);
    /// The failure was remembered.
    pub const CACHED_ERROR: Self = Self(13);
    /// The server is not ready yet.
    pub const NOT_READY: Self = Self(14);
    /// Blocked by the operator's policy.
    pub const BLOCKED: Self = Self(15);
    /// Blocked by someone else's order.
    pub const CENSORED: Self = Self(16);
    /// Blocked by the client's own wish.
    pub const FILTERED: Self = Self(17);
    /// The client is not allowed to ask.
    pub const PROHIBITED: Self = Self(18);
    /// Not authoritative and not asked to recurse.
    pub const NOT_AUTHORITATIVE: Self = Self(20);
    /// What was asked for is not supported.
    pub const NOT_SUPPORTED: Self = Self(21);
    /// No authority answered.
    pub const NO_REACHABLE_AUTHORITY: Self = Self(22);
    /// The network failed.
    pub const NETWORK_ERROR: Self = Self(23);
    /// What the server has cannot be right.
    pub const INVALID_DATA: Self = Self(24);
}

/// An extended error with what else is told of it (RFC 8914 section 2).
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct ErrorNote<'a> {
    /// The code.
    pub error: ExtendedError,
    /// EXTRA-TEXT; only its first [`EXTRA_TEXT_OCTETS`] are sent.
    pub text: &'a str,
}

/// Octets of a text beside an extended error: a path or a URL, in replies that stay small.
pub const EXTRA_TEXT_OCTETS: usize = 128;

impl<'a> ErrorNote<'a> {
    /// What is sent of the text.
    pub(crate) fn sent_text(&self) -> &'a [u8] {
        let mut end = self.text.len().min(EXTRA_TEXT_OCTETS);
        while !self.text.is_char_boundary(end) {
            end = end.saturating_sub(1);
        }
        self.text.as_bytes().get(..end).unwrap_or_default()
    }
}

impl From<ExtendedError> for ErrorNote<'static> {
    fn from(error: ExtendedError) -> Self {
        Self { error, text: "" }
    }
}

/// The number after `prefix`, which is matched in any letter case.
fn numbered(name: &str, prefix: &str) -> Option<u16> {
    let (head, digits) = name.split_at_checked(prefix.len())?;
    let plain = !digits.is_empty() && digits.bytes().all(|octet| octet.is_ascii_digit());
    (plain && head.eq_ignore_ascii_case(prefix)).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rcodes_have_names() {
        assert_eq!(Rcode::NXDOMAIN.name(), "NXDOMAIN");
        assert_eq!(Rcode(17).name(), "RCODE17");
        assert_eq!(Rcode::from_name("servFail"), Some(Rcode::SERVFAIL));
        assert_eq!(Rcode::from_name("rcode17"), Some(Rcode(17)));
        assert_eq!(Rcode::from_name("RCODE4096"), None);
        assert_eq!(Rcode::from_name("RCODE+1"), None);
        assert_eq!(Rcode::from_name("NXDOMAIN "), None);
        for code in 0..=0x0fff {
            assert_eq!(Rcode::from_name(&Rcode(code).name()), Some(Rcode(code)));
        }
    }

    #[test]
    fn an_rcode_is_split_between_header_and_opt() {
        assert_eq!((Rcode::BADVERS.low(), Rcode::BADVERS.high()), (0, 1));
        assert_eq!((Rcode(0xabc).low(), Rcode(0xabc).high()), (0xc, 0xab));
    }

    #[test]
    fn types_have_names() {
        assert_eq!(RecordType::A.to_string(), "A");
        assert_eq!(RecordType(65).to_string(), "HTTPS");
        assert_eq!(RecordType(65_280).to_string(), "TYPE65280");
        assert_eq!(RecordType::from_name("aaaa"), Some(RecordType::AAAA));
        assert_eq!(RecordType::from_name("TYPE28"), Some(RecordType::AAAA));
        assert_eq!(RecordType::from_name("TYPE65536"), None);
        assert_eq!(RecordType::from_name("TYPE"), None);
        assert_eq!(RecordType::from_name(""), None);
        for number in 0..=u16::MAX {
            let name = RecordType(number).to_string();
            assert_eq!(RecordType::from_name(&name), Some(RecordType(number)), "{name}");
        }
    }

    #[test]
    fn classes_have_names() {
        let shown = [1, 3, 4, 254, 255, 17].map(|class| RecordClass(class).to_string());
        assert_eq!(shown, ["IN", "CH", "HS", "NONE", "ANY", "CLASS17"]);
    }
}
