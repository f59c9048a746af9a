//! What one generation says of plugins, groups, block lists and local records, and what it means for a
//! question.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::BLOCKED_GROUPS;
use crate::draw::{Draw, Purpose};
use crate::message::types;
use crate::options::Options;
use crate::policy::{Act, POOL, Runtime, VARIANTS, script};
use crate::truth::Name;

/// Names that answers lead to by aliases.
const TARGETS: &str = "*.target.example";
/// Seconds of records of the configuration.
pub const RECORD_TTL: u32 = 60;
/// Seconds of blocked answers.
pub const BLOCK_TTL: u32 = 33;
/// Addresses that stand for blocked names.
const BLOCK_ADDRESSES: [&str; 2] = ["10.99.0.1", "fd99::1"];

/// Networks of clients, which lie in one another.
type Networks = &'static [(&'static str, u32)];
/// Groups of clients.
const GROUPS: [(&str, Networks); 3] = [
    ("many", &[("10.1.0.0", 24), ("fd00:0:0:1::", 64)]),
    ("few", &[("10.1.0.2", 31), ("10.1.0.1", 32)]),
    ("six", &[("fd00::", 32)]),
];

/// How blocked questions are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// REFUSED.
    Refused,
    /// No such name.
    NxDomain,
    /// No such records.
    NoData,
    /// 0.0.0.0 and ::.
    Zero,
    /// Addresses of our own.
    Addresses,
}

impl Mode {
    const ALL: [Self; 5] =
        [Self::Refused, Self::NxDomain, Self::NoData, Self::Zero, Self::Addresses];

    const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::NxDomain => "nxdomain",
            Self::NoData => "nodata",
            Self::Zero => "zero",
            Self::Addresses => "addresses",
        }
    }
}

/// What becomes of a question when a plugin fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// SERVFAIL.
    ServFail,
    /// It goes on.
    Forward,
    /// It is blocked.
    Block,
}

/// What is blocked for somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blacklist {
    /// The group of names.
    pub names: u64,
    /// What aliases lead to as well.
    pub targets: bool,
    /// How it is answered.
    pub mode: Mode,
}

/// A group of clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name; empty for everybody else.
    name: &'static str,
    /// First address and length of each.
    networks: Networks,
    /// What is blocked for it: as for everybody, nothing, or this.
    blacklist: Option<Option<Blacklist>>,
    /// Its plugins, if it has its own.
    plugins: Option<Vec<Runtime>>,
    /// Whether the pool is asked for it.
    pub pool: bool,
}

/// The policies of one generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policies {
    /// Plugins in their order; none are switched off.
    pub plugins: Vec<Runtime>,
    /// What becomes of a question when one fails.
    pub on_error: OnError,
    /// Which of the scripts, and which data of the executable.
    pub variant: u64,
    /// Whether the executable is kept running.
    pub worker_mode: bool,
    /// Time of one call of each, in milliseconds.
    pub lua_timeout_ms: u64,
    /// The same for the executable.
    pub exec_timeout_ms: u64,
    /// Failures in a row after which a plugin is left out for a while.
    pub disable_after: u32,
    /// Whether plugins come before the cache.
    pub before_cache: bool,
    /// What is blocked for everybody.
    pub blacklist: Blacklist,
    groups: Vec<Group>,
    /// Whether there are servers in the pool.
    pub pool: bool,
}

/// A question on its way through the plugins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asking {
    /// The name, as the plugins have left it.
    pub name: usize,
    /// Whether the pool is asked.
    pub pool: bool,
}

/// What plugins make of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It goes on.
    Forward(Asking),
    /// It is blocked.
    Block,
    /// It is answered with the local data of this name.
    Local(usize),
    /// It is to be asked over TCP.
    Truncate,
    /// A plugin failed, and that is SERVFAIL.
    Fail,
}

impl Policies {
    /// The policies of this number in a run; `pool` says whether servers are in one.
    #[must_use]
    pub fn draw(options: &Options, number: u64, pool: bool) -> Self {
        let mut draw = Draw::new(options.seed, Purpose::Policies(number));
        let plugins: &[Runtime] = match draw.below(8) {
            0 => &[],
            1..4 => &[Runtime::Lua],
            4 => &[Runtime::Exec],
            5 | 6 => &[Runtime::Lua, Runtime::Exec],
            _ => &[Runtime::Exec, Runtime::Lua],
        };
        let before_cache = draw.chance(500);
        let mut policies = Self {
            plugins: plugins.to_vec(),
            on_error: draw.pick(&[OnError::ServFail, OnError::Forward, OnError::Block]),
            variant: number % VARIANTS,
            worker_mode: draw.chance(500),
            lua_timeout_ms: draw.pick(&[1, 1, 2, 5]),
            exec_timeout_ms: draw.pick(&[20, 50, 200]),
            disable_after: if draw.chance(300) { draw.pick(&[1, 1, 3, 10]) } else { 0 },
            before_cache,
            blacklist: Blacklist {
                names: number % BLOCKED_GROUPS,
                // Each reload changes what answers in the cache lead to.
                targets: (number + options.seed).is_multiple_of(2),
                mode: draw.pick(&Mode::ALL),
            },
            groups: Vec::new(),
            pool,
        };
        policies.groups = policies.draw_groups(&mut draw);
        policies
    }

    fn draw_groups(&self, draw: &mut Draw) -> Vec<Group> {
        let wanted = draw.pick(&[0, 1, 3]);
        let mut groups = Vec::new();
        for (name, networks) in GROUPS.iter().copied().take(wanted) {
            let own = Blacklist {
                names: draw.below(BLOCKED_GROUPS as usize) as u64,
                targets: draw.chance(300),
                mode: draw.pick(&Mode::ALL),
            };
            let blacklist = match draw.below(3) {
                0 => None,
                1 => Some(None),
                _ => Some(Some(own)),
            };
            let plugins = (self.before_cache && draw.chance(400)).then(|| {
                let all: &[&[Runtime]] =
                    &[&[], &[Runtime::Lua], &[Runtime::Exec], &[Runtime::Exec, Runtime::Lua]];
                let mut plugins = all[draw.below(all.len())].to_vec();
                plugins.retain(|plugin| self.plugins.contains(plugin));
                plugins
            });
            let pool = self.pool && draw.chance(400);
            groups.push(Group { name, networks, blacklist, plugins, pool });
        }
        groups
    }

    /// Writes what concerns policies into a configuration file.
    pub fn write(&self, text: &mut String) {
        let _ = writeln!(text, "  blacklist = {},", self.blacklist.lua());
        if !self.plugins.is_empty() {
            let on_error = match self.on_error {
                OnError::ServFail => "servfail",
                OnError::Forward => "forward",
                OnError::Block => "block",
            };
            let entries: Vec<String> =
                self.plugins.iter().map(|plugin| self.entry(*plugin)).collect();
            let _ = writeln!(
                text,
                "  plugins = {{ enabled = true, on_error = \"{on_error}\", memory_limit_mb = 2, \
                 disable_after_failures = {}, entries = {{ {} }} }},",
                self.disable_after,
                entries.join(", ")
            );
        }
        let _ = writeln!(
            text,
            "  local_records = {{ \"l1.lan. 60 A 10.8.{0}.1\", \"*.w.lan. 60 A 10.8.{0}.2\", \
             \"a.lan. 60 CNAME l1.lan.\", \"c.d.w.lan. 60 TXT {0}\" }},",
            self.variant
        );
        if self.pool {
            let _ = writeln!(text, "  pools = {{ {{ name = \"{POOL}\" }} }},");
        }
        if !self.groups.is_empty() {
            text.push_str("  groups = {\n");
            for group in &self.groups {
                let _ = writeln!(text, "    {},", group.lua());
            }
            text.push_str("  },\n");
        }
    }

    /// The order of the chain.
    #[must_use]
    pub const fn chain(&self) -> &'static str {
        if self.before_cache {
            "{ \"blacklist\", \"hosts\", \"lua_policy\", \"cache\", \"upstream\" }"
        } else {
            "{ \"blacklist\", \"hosts\", \"cache\", \"lua_policy\", \"upstream\" }"
        }
    }

    fn entry(&self, plugin: Runtime) -> String {
        let name = plugin.plugin();
        match plugin {
            Runtime::Lua => format!(
                "{{ name = \"{name}\", path = \"policy-{}.lua\", timeout_ms = {} }}",
                self.variant, self.lua_timeout_ms
            ),
            Runtime::Exec => format!(
                "{{ name = \"{name}\", runtime = \"exec\", path = \"judge\", args = {{ \"{}\" }}, \
                 mode = \"{}\", timeout_ms = {} }}",
                self.variant,
                if self.worker_mode { "worker" } else { "once" },
                self.exec_timeout_ms
            ),
        }
    }

    /// The address that local records have for a host, by its last octet.
    #[must_use]
    pub fn record(&self, host: u8) -> u32 {
        u32::from_be_bytes([10, 8, self.variant as u8, host])
    }

    /// The group of a client, by the longest prefix around it; none is everybody else.
    #[must_use]
    pub fn group(&self, client: IpAddr) -> Option<&Group> {
        let client = client.to_canonical();
        let around = |group: &Group| {
            let networks = group.networks.iter();
            networks.filter(|(first, length)| is_in(client, first, *length)).map(|it| it.1).max()
        };
        let found = self.groups.iter().filter_map(|group| Some((around(group)?, group)));
        found.max_by_key(|(length, _)| *length).map(|(_, group)| group)
    }

    /// What is blocked for a client.
    #[must_use]
    pub fn blocked_for(&self, client: IpAddr) -> Option<Blacklist> {
        let own = self.group(client).and_then(|group| group.blacklist);
        own.unwrap_or(Some(self.blacklist))
    }

    /// Whether the pool is asked for a client.
    #[must_use]
    pub fn pool_for(&self, client: IpAddr) -> bool {
        self.group(client).is_some_and(|group| group.pool)
    }

    /// The plugins that a client's questions pass.
    #[must_use]
    pub fn plugins_for(&self, client: IpAddr) -> &[Runtime] {
        let own = self.group(client).and_then(|group| group.plugins.as_deref());
        own.unwrap_or(&self.plugins)
    }

    /// What the plugins may make of a question: first what they do when nothing goes wrong. `may_fail`
    /// says whether a plugin may fail whatever the name says.
    #[must_use]
    pub fn decide(
        &self,
        client: IpAddr,
        name: usize,
        names: &[Name],
        by_datagram: bool,
        may_fail: impl Fn(Runtime) -> bool,
    ) -> Vec<Decision> {
        let mut decisions = vec![Decision::Forward(Asking { name, pool: self.pool_for(client) })];
        for plugin in self.plugins_for(client) {
            let before = std::mem::take(&mut decisions);
            for decision in before {
                let Decision::Forward(asking) = decision else {
                    decisions.push(decision);
                    continue;
                };
                decisions.extend(self.apply(*plugin, asking, names, by_datagram));
                if may_fail(*plugin) {
                    decisions.push(self.failed(asking));
                }
            }
        }
        let mut distinct: Vec<Decision> = Vec::new();
        for decision in decisions {
            if !distinct.contains(&decision) {
                distinct.push(decision);
            }
        }
        distinct
    }

    /// What one plugin does with a question.
    fn apply(
        &self,
        plugin: Runtime,
        asking: Asking,
        names: &[Name],
        by_datagram: bool,
    ) -> Vec<Decision> {
        let goes_on = Decision::Forward(asking);
        let ruled = names[asking.name].ruled.filter(|ruled| ruled.by == plugin);
        let Some(ruled) = ruled else { return vec![goes_on] };
        match ruled.act {
            Act::Block => vec![Decision::Block],
            Act::Rewrite(name) => vec![Decision::Forward(Asking { name, ..asking })],
            Act::Local => vec![Decision::Local(asking.name)],
            Act::Truncate if by_datagram => vec![Decision::Truncate],
            Act::Truncate => vec![goes_on],
            Act::Pool if self.pool => vec![Decision::Forward(Asking { pool: true, ..asking })],
            // There is no pool of that name, and so it fails.
            Act::Pool | Act::Fail | Act::Loop | Act::Bomb | Act::Odd => vec![self.failed(asking)],
            Act::Flap => vec![goes_on, self.failed(asking)],
        }
    }

    /// What becomes of a question when a plugin fails.
    fn failed(&self, asking: Asking) -> Decision {
        match self.on_error {
            OnError::ServFail => Decision::Fail,
            OnError::Forward => Decision::Forward(asking),
            OnError::Block => Decision::Block,
        }
    }
}

impl Blacklist {
    /// Whether a name is blocked.
    #[must_use]
    pub fn blocks(&self, name: &Name) -> bool {
        name.blocked_group == Some(self.names)
    }

    fn lua(&self) -> String {
        let mut domains = format!("\"*.g{}.ads.example\"", self.names);
        if self.targets {
            let _ = write!(domains, ", \"{TARGETS}\"");
        }
        let mut text = format!(
            "{{ domains = {{ {domains} }}, mode = \"{}\", ttl = {BLOCK_TTL}",
            self.mode.name()
        );
        if self.mode == Mode::Addresses {
            let [v4, v6] = BLOCK_ADDRESSES;
            let _ = write!(text, ", addresses = {{ \"{v4}\", \"{v6}\" }}");
        }
        text + " }"
    }

    /// The addresses that stand for a blocked name, as a reader takes them out of a reply.
    #[must_use]
    pub fn addresses(&self, qtype: u16) -> Vec<u32> {
        let (v4, v6) = match self.mode {
            Mode::Refused | Mode::NxDomain | Mode::NoData => return Vec::new(),
            Mode::Zero => (0, 0),
            Mode::Addresses => (u32::from_be_bytes([10, 99, 0, 1]), 1),
        };
        match qtype {
            types::A => vec![v4],
            types::AAAA => vec![v6],
            types::ANY => vec![v4, v6],
            _ => Vec::new(),
        }
    }
}

impl Group {
    fn lua(&self) -> String {
        let clients: Vec<String> =
            self.networks.iter().map(|(first, length)| format!("\"{first}/{length}\"")).collect();
        let mut text =
            format!("{{ name = \"{}\", clients = {{ {} }}", self.name, clients.join(", "));
        match &self.blacklist {
            None => {}
            Some(None) => text.push_str(", blacklist = false"),
            Some(Some(own)) => {
                let _ = write!(text, ", blacklist = {}", own.lua());
            }
        }
        if let Some(plugins) = &self.plugins {
            let names: Vec<String> =
                plugins.iter().map(|plugin| format!("\"{}\"", plugin.plugin())).collect();
            let _ = write!(text, ", plugins = {{ {} }}", names.join(", "));
        }
        if self.pool {
            let _ = write!(text, ", pool = \"{POOL}\"");
        }
        text + " }"
    }
}

/// Whether an address is in a network.
fn is_in(client: IpAddr, first: &str, length: u32) -> bool {
    match (client, first.parse().expect("a network of the world")) {
        (IpAddr::V4(one), IpAddr::V4(other)) => {
            let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
            u32::from(one) & mask == u32::from(other) & mask
        }
        (IpAddr::V6(one), IpAddr::V6(other)) => {
            let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            u128::from(one) & mask == u128::from(other) & mask
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

/// The script of a path, if it is one of a policy.
#[must_use]
pub(super) fn script_at(path: &str) -> Option<String> {
    let variant = path.strip_prefix("policy-")?.strip_suffix(".lua")?;
    Some(script(variant.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generation::Generation;

    /// The policies of a run that has all groups.
    fn with_groups() -> Policies {
        let all = (1..).map(|seed| Options { policies: true, ..Options::draw(seed, 1) });
        let mut policies = all.map(|options| Policies::draw(&options, 0, true));
        policies.find(|policies| policies.groups.len() == GROUPS.len()).expect("one has them")
    }

    #[test]
    fn the_longest_prefix_decides_about_the_group() {
        let policies = with_groups();
        for (client, group) in [
            ("10.1.0.9", Some("many")),
            ("10.1.0.1", Some("few")),
            ("10.1.0.2", Some("few")),
            ("10.1.0.3", Some("few")),
            ("10.1.0.4", Some("many")),
            ("::ffff:10.1.0.3", Some("few")),
            ("10.1.1.3", None),
            ("fd00::1", Some("six")),
            ("fd00:0:0:1::1", Some("many")),
            ("fd01::1", None),
        ] {
            let found = policies.group(client.parse().expect("an address")).map(|group| group.name);
            assert_eq!(found, group, "{client}");
        }
    }

    #[test]
    fn generations_with_policies_can_be_loaded() {
        for seed in 0..60 {
            let options = Options { policies: true, ..Options::draw(seed, 1) };
            let generation = Generation::draw(&options, seed % 4);
            let loaded = generation.load();
            assert!(loaded.is_ok(), "{:?}\n{}", loaded.err(), generation.lua());
        }
    }
}
