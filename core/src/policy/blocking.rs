//! Which names are blocked for whom, and how blocked questions are answered.
//!
//! Lists are immutable and shared between sets and generations. A set is what one group of clients
//! has: the lists that block, those that allow (which win), and the way of answering. What an adblock
//! list excepts with `@@` is allowed in every set that the list is in, whichever list blocks it, as
//! the clients do for which such lists are written.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::blocklist::{BlockMatch, Blocklist};
use super::list_format::ListReport;
use crate::time::Duration;
use crate::wire::{LocalData, LocalRecord, Owner, Rcode, RecordType, local_soa};

/// Sets that a configuration may have: an answer in the cache keeps a bit for each.
pub const BLOCK_SETS: usize = 63;

/// All sets of a configuration; [`BlockSetId`] is the place in the list, 0 that of everybody.
#[derive(Debug, Clone, Default)]
pub struct Blocking {
    sets: Vec<BlockSet>,
    generation: u32,
}

/// Place of a set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct BlockSetId(pub u8);

/// What is blocked for one group of clients.
#[derive(Debug, Clone, Default)]
pub struct BlockSet {
    /// Lists of blocked names, in the order of the configuration.
    pub lists: Vec<Arc<NameList>>,
    /// Lists of names that are not blocked whatever those say.
    pub allow: Vec<Arc<NameList>>,
    /// How blocked questions are answered.
    pub mode: BlockMode,
    /// Seconds that such an answer may be remembered.
    pub ttl: u32,
    /// How old a list that was fetched may become before it is fetched again.
    pub refresh: Duration,
}

/// A list with its name.
#[derive(Debug, Clone, Default)]
pub struct NameList {
    /// As operators and clients are told: `blacklist.domains`, the name of a file, a URL.
    pub name: String,
    /// Where it comes from, if that is not the configuration itself.
    pub source: Option<ListSource>,
    /// What is in it.
    pub names: Blocklist,
    /// What it says must not be blocked.
    pub exceptions: Blocklist,
    /// What reading it found.
    pub report: ListReport,
}

/// Where a list comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ListSource {
    /// A file, by its path.
    File(String),
    /// Fetched from here.
    Url(String),
}

/// A list that may be replaced while the configuration stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListUse {
    /// Where it comes from.
    pub source: ListSource,
    /// How old a fetched copy may become: the least that any set wants.
    pub refresh: Duration,
}

/// How blocked questions are answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum BlockMode {
    /// REFUSED.
    #[default]
    Refused,
    /// NXDOMAIN with a SOA.
    NxDomain,
    /// No records, with a SOA.
    NoData,
    /// The addresses 0.0.0.0 and ::, no records of other types.
    Zero,
    /// These addresses, no records of other types.
    Addresses {
        /// For A.
        v4: Vec<Ipv4Addr>,
        /// For AAAA.
        v6: Vec<Ipv6Addr>,
    },
}

/// What blocks a name.
#[derive(Debug, Clone, Copy)]
pub struct Blocked<'a> {
    /// Which list.
    pub list: &'a str,
    /// Which entry of it.
    pub entry: BlockMatch<'a>,
}

/// What a blocked question is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockAnswer {
    /// The rcode.
    pub rcode: Rcode,
    /// Records of the name that was asked for.
    pub answers: Vec<LocalRecord<'static>>,
    /// The SOA of a negative answer (RFC 2308 section 3). REFUSED is none.
    pub authority: Option<LocalRecord<'static>>,
}

impl Blocking {
    /// Of these sets, at most [`BLOCK_SETS`]; the generation differs from that of any other content.
    ///
    /// # Panics
    /// If there are more sets.
    #[must_use]
    pub fn new(sets: Vec<BlockSet>, generation: u32) -> Self {
        assert!(sets.len() <= BLOCK_SETS, "a configuration has fewer groups than there are bits");
        Self { sets, generation }
    }

    /// Which content this is: an answer in the cache that was checked against another one is checked
    /// again.
    #[must_use]
    pub const fn generation(&self) -> u32 {
        self.generation
    }

    /// The same content as the successor of another: with a generation that differs from its.
    #[must_use]
    pub fn succeeding(self, previous: &Self) -> Self {
        Self { generation: previous.generation.wrapping_add(1), ..self }
    }

    /// The same sets with another content of one list, wherever it is in use, as a new generation.
    #[must_use]
    pub fn with_list(&self, source: &ListSource, list: &Arc<NameList>) -> Self {
        let mut sets = self.sets.clone();
        let lists = sets.iter_mut().flat_map(|set| set.lists.iter_mut().chain(&mut set.allow));
        for place in lists.filter(|place| place.source.as_ref() == Some(source)) {
            *place = Arc::clone(list);
        }
        Self { sets, generation: self.generation.wrapping_add(1) }
    }

    /// The lists that come from elsewhere, each once, in the order of the configuration.
    #[must_use]
    pub fn sources(&self) -> Vec<ListUse> {
        let mut uses: Vec<ListUse> = Vec::new();
        for set in &self.sets {
            for source in set.lists.iter().filter_map(|list| list.source.as_ref()) {
                match uses.iter_mut().find(|known| known.source == *source) {
                    Some(known) => known.refresh = known.refresh.min(set.refresh),
                    None => uses.push(ListUse { source: source.clone(), refresh: set.refresh }),
                }
            }
        }
        uses
    }

    /// The present content of a list that comes from elsewhere.
    #[must_use]
    pub fn list(&self, source: &ListSource) -> Option<&Arc<NameList>> {
        let mut lists = self.sets.iter().flat_map(|set| &set.lists);
        lists.find(|list| list.source.as_ref() == Some(source))
    }

    /// A set by its place.
    #[must_use]
    pub fn set(&self, id: BlockSetId) -> Option<&BlockSet> {
        self.sets.get(usize::from(id.0))
    }

    /// All sets.
    #[must_use]
    pub fn sets(&self) -> &[BlockSet] {
        &self.sets
    }

    /// Whether no set blocks anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sets.iter().all(BlockSet::is_empty)
    }

    /// A bit for each set that blocks this lower-cased name.
    #[must_use]
    pub fn sets_that_block(&self, lower_name: &[u8]) -> u64 {
        let places = self.sets.iter().enumerate();
        let blocking = places.filter(|(_, set)| set.blocks(lower_name).is_some());
        blocking.fold(0, |bits, (place, _)| bits | 1 << place)
    }
}

impl BlockSet {
    /// Whether it blocks nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lists.iter().all(|list| list.names.is_empty())
    }

    /// What blocks this lower-cased wire name: the first list that does, unless one allows it.
    #[must_use]
    pub fn blocks<'a>(&'a self, lower_name: &'a [u8]) -> Option<Blocked<'a>> {
        let blocked = self.lists.iter().find_map(|list| {
            let entry = list.names.matches(lower_name)?;
            Some(Blocked { list: &list.name, entry })
        })?;
        let allowing = self.allow.iter().map(|list| &list.names);
        let excepting = self.lists.iter().map(|list| &list.exceptions);
        let is_allowed = allowing.chain(excepting).any(|names| names.matches(lower_name).is_some());
        (!is_allowed).then_some(blocked)
    }

    /// What a blocked question of this type is answered. ANY asks for addresses of both families.
    #[must_use]
    pub fn answer(&self, record_type: RecordType) -> BlockAnswer {
        match &self.mode {
            BlockMode::Refused => {
                BlockAnswer { rcode: Rcode::REFUSED, answers: Vec::new(), authority: None }
            }
            BlockMode::NxDomain => self.negative(Rcode::NXDOMAIN),
            BlockMode::NoData => self.negative(Rcode::NOERROR),
            BlockMode::Zero => {
                self.addresses(record_type, &[Ipv4Addr::UNSPECIFIED], &[Ipv6Addr::UNSPECIFIED])
            }
            BlockMode::Addresses { v4, v6 } => self.addresses(record_type, v4, v6),
        }
    }

    /// The SOA's owner is the name asked for: the zone that it then seems to be the apex of has
    /// nothing in it but what is blocked, so that nobody concludes more than that (RFC 2308 section
    /// 2, RFC 8020 section 2).
    fn negative(&self, rcode: Rcode) -> BlockAnswer {
        BlockAnswer { rcode, answers: Vec::new(), authority: Some(local_soa(self.ttl)) }
    }

    fn addresses(&self, record_type: RecordType, v4: &[Ipv4Addr], v6: &[Ipv6Addr]) -> BlockAnswer {
        let wants = |family| record_type == family || record_type == RecordType::ANY;
        let v4 = v4.iter().filter(|_| wants(RecordType::A)).copied().map(LocalData::A);
        let v6 = v6.iter().filter(|_| wants(RecordType::AAAA)).copied().map(LocalData::Aaaa);
        let answers: Vec<_> = v4.chain(v6).map(|data| self.record(data)).collect();
        if answers.is_empty() {
            return self.negative(Rcode::NOERROR);
        }
        BlockAnswer { rcode: Rcode::NOERROR, answers, authority: None }
    }

    fn record(&self, data: LocalData<'static>) -> LocalRecord<'static> {
        let record_type =
            if matches!(data, LocalData::A(_)) { RecordType::A } else { RecordType::AAAA };
        LocalRecord { owner: Owner::Question, record_type, ttl: self.ttl, data }
    }
}

impl NameList {
    /// A list of the configuration itself.
    #[must_use]
    pub fn new(name: &str, names: Blocklist) -> Self {
        Self { name: name.to_owned(), names, ..Self::default() }
    }

    /// The list of a source that nobody has read yet.
    #[must_use]
    pub fn empty(source: ListSource) -> Self {
        Self { name: source.shown(), source: Some(source), ..Self::default() }
    }
}

impl ListSource {
    /// As operators and clients are told. Where a file stands is nothing to clients, and what comes
    /// after a URL's `?` may be a secret.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Self::File(path) => path.rsplit('/').next().unwrap_or(path).to_owned(),
            Self::Url(url) => {
                url.split_once(['?', '#']).map_or(url.as_str(), |(head, _)| head).to_owned()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Name;

    fn names(patterns: &[&str]) -> Blocklist {
        let mut builder = Blocklist::builder();
        for pattern in patterns {
            builder.insert(pattern).unwrap();
        }
        builder.build()
    }

    fn list(name: &str, patterns: &[&str]) -> Arc<NameList> {
        Arc::new(NameList::new(name, names(patterns)))
    }

    fn url(text: &str) -> ListSource {
        ListSource::Url(text.to_owned())
    }

    /// `list: entry` of what blocks a name.
    fn blocked(set: &BlockSet, name: &str) -> Option<String> {
        let name = Name::parse(name).unwrap();
        let found = set.blocks(name.as_wire())?;
        Some(format!("{}: {}", found.list, found.entry))
    }

    #[test]
    fn the_first_list_that_blocks_is_named() {
        let lists = vec![list("one", &["a.example"]), list("two", &["*.example", "b.test"])];
        let set = BlockSet { lists, ..BlockSet::default() };
        assert_eq!(blocked(&set, "a.example").as_deref(), Some("one: a.example."));
        assert_eq!(blocked(&set, "b.example").as_deref(), Some("two: *.example."));
        assert_eq!(blocked(&set, "b.test").as_deref(), Some("two: b.test."));
        assert_eq!(blocked(&set, "example"), None);
    }

    #[test]
    fn what_is_allowed_by_anybody_is_not_blocked() {
        let adblock = NameList { exceptions: names(&["c.example"]), ..NameList::default() };
        let set = BlockSet {
            lists: vec![list("one", &["*.example"]), Arc::new(adblock)],
            allow: vec![list("allow", &["a.example", "*.b.example"])],
            ..BlockSet::default()
        };
        assert_eq!(blocked(&set, "a.example"), None);
        assert!(blocked(&set, "x.a.example").is_some(), "an allowed name is that name only");
        assert_eq!(blocked(&set, "x.b.example"), None);
        assert!(blocked(&set, "b.example").is_some(), "below is not the name itself");
        assert_eq!(blocked(&set, "c.example"), None, "an exception counts beyond its own list");
        assert!(!set.is_empty());
    }

    #[test]
    fn sets_that_block_are_bits() {
        let set = |patterns| BlockSet { lists: vec![list("l", patterns)], ..BlockSet::default() };
        let sets = vec![set(&["a.example"]), set(&[]), set(&["*.example"])];
        let blocking = Blocking::new(sets, 1);
        let bits = |name: &str| blocking.sets_that_block(Name::parse(name).unwrap().as_wire());
        assert_eq!((bits("a.example"), bits("b.example"), bits("example")), (0b101, 0b100, 0));
        assert!(!blocking.is_empty());
        assert!(Blocking::default().is_empty());
    }

    #[test]
    fn a_list_is_replaced_wherever_it_is_in_use() {
        let (one, other) = (url("https://lists.example/a?key=1"), url("https://lists.example/b"));
        let set = |sources: &[&ListSource], refresh| BlockSet {
            lists: sources.iter().map(|&it| Arc::new(NameList::empty(it.clone()))).collect(),
            refresh: Duration::from_secs(refresh),
            ..BlockSet::default()
        };
        let before = Blocking::new(vec![set(&[&other, &one], 60), set(&[&one], 30)], 7);
        assert!(before.is_empty(), "nobody has fetched them yet");
        let uses = [(&other, 60), (&one, 30)].map(|(source, refresh)| ListUse {
            source: source.clone(),
            refresh: Duration::from_secs(refresh),
        });
        assert_eq!(before.sources(), uses);
        let mut read = NameList::empty(one.clone());
        assert_eq!(read.name, "https://lists.example/a");
        read.names = names(&["a.example"]);
        let after = before.with_list(&one, &Arc::new(read));
        assert_ne!(after.generation(), before.generation());
        assert_eq!(after.sources(), uses);
        assert_eq!(after.sets_that_block(b"\x01a\x07example\0"), 0b11);
        assert_eq!(after.list(&one).unwrap().names.len(), 1);
        assert!(after.list(&other).unwrap().names.is_empty());
        let again = before.clone().succeeding(&after);
        assert_ne!(again.generation(), after.generation());
        assert!(again.is_empty());
    }

    /// Rcode, records and whether there is a SOA.
    fn answered(
        mode: BlockMode,
        record_type: RecordType,
    ) -> (Rcode, Vec<LocalData<'static>>, bool) {
        let set = BlockSet { mode, ttl: 77, ..BlockSet::default() };
        let answer = set.answer(record_type);
        let records = answer.answers.iter().chain(&answer.authority);
        assert!(records.clone().all(|record| record.ttl == 77 && record.owner == Owner::Question));
        if let Some(soa) = answer.authority {
            assert_eq!(soa, local_soa(77));
        }
        for record in &answer.answers {
            assert!(record.record_type == record_type || record_type == RecordType::ANY);
        }
        let data = answer.answers.iter().map(|record| record.data).collect();
        (answer.rcode, data, answer.authority.is_some())
    }

    #[test]
    fn answers_by_mode_and_type() {
        use RecordType as Type;
        for record_type in [Type::A, Type::AAAA, Type::ANY, Type::HTTPS, Type::MX] {
            let refused = answered(BlockMode::Refused, record_type);
            assert_eq!(refused, (Rcode::REFUSED, vec![], false));
            let nxdomain = answered(BlockMode::NxDomain, record_type);
            assert_eq!(nxdomain, (Rcode::NXDOMAIN, vec![], true));
            assert_eq!(answered(BlockMode::NoData, record_type), (Rcode::NOERROR, vec![], true));
        }
        let zero4 = LocalData::A(Ipv4Addr::UNSPECIFIED);
        let zero6 = LocalData::Aaaa(Ipv6Addr::UNSPECIFIED);
        let zero = |record_type| answered(BlockMode::Zero, record_type);
        assert_eq!(zero(Type::A), (Rcode::NOERROR, vec![zero4], false));
        assert_eq!(zero(Type::AAAA), (Rcode::NOERROR, vec![zero6], false));
        assert_eq!(zero(Type::ANY), (Rcode::NOERROR, vec![zero4, zero6], false));
        assert_eq!(zero(Type::HTTPS), (Rcode::NOERROR, vec![], true));
        let (one, two) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2));
        let given = |record_type| {
            answered(BlockMode::Addresses { v4: vec![one, two], v6: vec![] }, record_type)
        };
        let both = vec![LocalData::A(one), LocalData::A(two)];
        assert_eq!(given(Type::A), (Rcode::NOERROR, both.clone(), false));
        assert_eq!(given(Type::ANY), (Rcode::NOERROR, both, false));
        assert_eq!(given(Type::AAAA), (Rcode::NOERROR, vec![], true));
    }
}
