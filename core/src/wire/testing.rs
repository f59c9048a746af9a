//! Messages put together by hand, for the tests of this module and of the cache.

use super::codes::RecordType;

/// Section numbers for [`Draft::record`].
pub(crate) const ANSWER: usize = 1;
pub(crate) const AUTHORITY: usize = 2;
pub(crate) const ADDITIONAL: usize = 3;
/// A pointer to the question's name.
pub(crate) const AT_QUESTION: &[u8] = &[0xc0, 12];

/// The wire form of a dotted name, letter case kept.
pub(crate) fn wire(text: &str) -> Vec<u8> {
    let mut octets = Vec::new();
    for label in text.split('.').filter(|label| !label.is_empty()) {
        octets.push(u8::try_from(label.len()).unwrap());
        octets.extend_from_slice(label.as_bytes());
    }
    octets.push(0);
    octets
}

/// Name, type and class IN.
pub(crate) fn question(name: &str, record_type: RecordType) -> Vec<u8> {
    [wire(name).as_slice(), &record_type.0.to_be_bytes(), &[0, 1]].concat()
}

/// RDATA of a SOA record.
pub(crate) fn soa(minimum: u32) -> Vec<u8> {
    let mut rdata = [wire("ns.example"), wire("mail.example")].concat();
    for number in [1, 2, 3, 4, minimum] {
        rdata.extend_from_slice(&u32::to_be_bytes(number));
    }
    rdata
}

/// A message that grows; counts follow.
#[derive(Clone)]
pub(crate) struct Draft(pub(crate) Vec<u8>);

impl Draft {
    pub(crate) fn new(id: u16, flags: u16) -> Self {
        let mut octets = vec![0; 12];
        octets[..2].copy_from_slice(&id.to_be_bytes());
        octets[2..4].copy_from_slice(&flags.to_be_bytes());
        Self(octets)
    }

    pub(crate) fn question(mut self, name: &str, record_type: RecordType) -> Self {
        self.0.extend(question(name, record_type));
        self.count(0)
    }

    /// A record of class IN.
    pub(crate) fn record(
        mut self,
        section: usize,
        owner: &[u8],
        record_type: RecordType,
        ttl: u32,
        rdata: &[u8],
    ) -> Self {
        self.0.extend_from_slice(owner);
        self.0.extend_from_slice(&record_type.0.to_be_bytes());
        self.0.extend_from_slice(&[0, 1]);
        self.0.extend_from_slice(&ttl.to_be_bytes());
        self.0.extend_from_slice(&u16::try_from(rdata.len()).unwrap().to_be_bytes());
        self.0.extend_from_slice(rdata);
        self.count(section)
    }

    /// An A record of the question's name.
    pub(crate) fn address(self, ttl: u32) -> Self {
        self.record(ANSWER, AT_QUESTION, RecordType::A, ttl, &[192, 0, 2, 1])
    }

    /// An OPT record; `ttl` holds rcode, version and flags.
    pub(crate) fn opt(mut self, udp_size: u16, ttl: u32, options: &[u8]) -> Self {
        let start = self.0.len();
        self = self.record(ADDITIONAL, &[0], RecordType::OPT, ttl, options);
        self.0[start + 3..start + 5].copy_from_slice(&udp_size.to_be_bytes());
        self
    }

    pub(crate) fn octets(mut self, octets: &[u8]) -> Self {
        self.0.extend_from_slice(octets);
        self
    }

    /// One more in a section; 0 is the question's.
    pub(crate) fn count(mut self, section: usize) -> Self {
        self.0[5 + 2 * section] += 1;
        self
    }
}
