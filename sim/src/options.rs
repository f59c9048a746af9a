//! The options of one run, all drawn from its seed: sizes, habits of the clients, faults and rates.

use std::fmt::{self, Write as _};

use crate::draw::{Draw, Purpose};
use crate::fault::{Fault, Rates};

/// The options of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Everything else, and everything that happens, follows from it.
    pub seed: u64,
    /// Queries that clients send before everything heals.
    pub queries: u64,
    /// Engines that share a cache.
    pub engines: usize,
    /// Names that exist in the world.
    pub names: usize,
    /// How much more the popular names are asked for: zero is not at all.
    pub skew: u32,
    /// Clients, each with an address of its own.
    pub clients: usize,
    /// Datagrams that a client sends at once, at most.
    pub burst: usize,
    /// Pauses of a client between its bursts, in microseconds on average.
    pub pause_us: u64,
    /// Queries that come over connections, in a thousand.
    pub stream_per_mille: u32,
    /// Connections that clients make over TLS, in a thousand of those that are not for HTTP.
    pub dot_per_mille: u32,
    /// Connections that clients make for HTTP, in a thousand.
    pub doh_per_mille: u32,
    /// Clients behind a proxy, in a thousand.
    pub proxied_per_mille: u32,
    /// Servers that are asked over TLS or HTTPS, in a thousand.
    pub encrypted_per_mille: u32,
    /// Queries with EDNS, in a thousand.
    pub edns_per_mille: u32,
    /// Time between engine and upstreams, there and back, in microseconds.
    pub round_trip_us: u64,
    /// Seconds after which the world's data changes, on average.
    pub change_seconds: u64,
    /// Servers in the pool.
    pub servers: usize,
    /// Whether caches are tiny: entries or octets at their least.
    pub tiny_cache: bool,
    /// Whether limits that can be configured are at their least.
    pub tiny_limits: bool,
    /// Whether deadlines and attempts are at their least.
    pub tiny_patience: bool,
    /// Whether there are plugins, groups, local records and ways of blocking.
    pub policies: bool,
    /// How often faults happen.
    pub rates: Rates,
}

impl Options {
    /// What a seed stands for.
    #[must_use]
    pub fn draw(seed: u64, queries: u64) -> Self {
        let mut draw = Draw::new(seed, Purpose::Options);
        let rates = rates(&mut draw);
        let burst = draw.pick(&[1, 1, 2, 8, 32, 100]);
        let clients = draw.pick(&[1, 3, 20, 50]);
        // From a handful to some ten thousands a second, all clients together.
        let pause_us = draw.pick(&[100, 1_000, 10_000, 100_000]) * clients as u64 * burst as u64;
        let tiny_patience = draw.chance(100);
        // Who has milliseconds for an answer is not far away from it.
        let ways: &[u64] =
            if tiny_patience { &[200, 2_000] } else { &[200, 2_000, 20_000, 150_000] };
        Self {
            seed,
            queries,
            engines: draw.pick(&[1, 1, 1, 2, 3, 4]),
            names: draw.pick(&[4, 30, 300, 300, 1_000, 3_000]),
            skew: draw.pick(&[0, 1, 2, 3]) as u32,
            clients,
            burst,
            pause_us,
            stream_per_mille: draw.pick(&[0, 50, 200, 500]),
            dot_per_mille: draw.pick(&[0, 0, 300, 1_000]),
            doh_per_mille: draw.pick(&[0, 300, 700]),
            proxied_per_mille: draw.pick(&[0, 0, 200, 1_000]),
            encrypted_per_mille: draw.pick(&[0, 300, 600]),
            edns_per_mille: draw.pick(&[0, 500, 800, 1_000]),
            round_trip_us: draw.pick(ways),
            change_seconds: draw.pick(&[1, 10, 100, 100_000]),
            servers: draw.pick(&[1, 2, 3, 3, 4, 5]),
            tiny_cache: draw.chance(150),
            tiny_limits: draw.chance(100),
            tiny_patience,
            policies: draw.chance(500),
            rates,
        }
    }

    /// The options that can be set besides faults, by the names used on the command line.
    fn fields(&mut self) -> [(&'static str, Field<'_>); 19] {
        [
            ("engines", Field::Count(&mut self.engines)),
            ("names", Field::Count(&mut self.names)),
            ("skew", Field::Number32(&mut self.skew)),
            ("clients", Field::Count(&mut self.clients)),
            ("burst", Field::Count(&mut self.burst)),
            ("pause-us", Field::Number(&mut self.pause_us)),
            ("streams", Field::Number32(&mut self.stream_per_mille)),
            ("dot", Field::Number32(&mut self.dot_per_mille)),
            ("doh", Field::Number32(&mut self.doh_per_mille)),
            ("proxied", Field::Number32(&mut self.proxied_per_mille)),
            ("encrypted", Field::Number32(&mut self.encrypted_per_mille)),
            ("edns", Field::Number32(&mut self.edns_per_mille)),
            ("round-trip-us", Field::Number(&mut self.round_trip_us)),
            ("change-seconds", Field::Number(&mut self.change_seconds)),
            ("servers", Field::Count(&mut self.servers)),
            ("tiny-cache", Field::Switch(&mut self.tiny_cache)),
            ("tiny-limits", Field::Switch(&mut self.tiny_limits)),
            ("tiny-patience", Field::Switch(&mut self.tiny_patience)),
            ("policies", Field::Switch(&mut self.policies)),
        ]
    }

    /// Sets one option by its name: a fault's rate in a thousand, or another number.
    ///
    /// # Errors
    /// What is wrong with name or value.
    pub fn set(&mut self, name: &str, value: u64) -> Result<(), SetError> {
        let wrong = || SetError::Value { name: name.to_owned(), value };
        if let Some(fault) = Fault::ALL.iter().find(|fault| fault.name() == name) {
            let rate = u32::try_from(value).ok().filter(|rate| *rate <= 1_000).ok_or_else(wrong)?;
            self.rates.set(*fault, rate);
            return Ok(());
        }
        let fields = self.fields();
        let Some((_, field)) = fields.into_iter().find(|(known, _)| *known == name) else {
            return Err(SetError::Name(name.to_owned()));
        };
        let least = u64::from(!matches!(field, Field::Switch(_) | Field::Number32(_)));
        if value < least || value > 1_000_000_000 {
            return Err(wrong());
        }
        match field {
            Field::Count(count) => *count = usize::try_from(value).map_err(|_| wrong())?,
            Field::Number(number) => *number = value,
            Field::Number32(number) => *number = u32::try_from(value).map_err(|_| wrong())?,
            Field::Switch(switch) => *switch = value != 0,
        }
        Ok(())
    }

    /// What follows `--seed` on the command line of this very run.
    #[must_use]
    pub fn arguments(&self) -> String {
        let mut drawn = Self::draw(self.seed, self.queries);
        let mut own = self.clone();
        let mut arguments = format!("--seed {} --queries {}", self.seed, self.queries);
        for fault in Fault::ALL {
            if drawn.rates.get(*fault) != own.rates.get(*fault) {
                let _ = write!(arguments, " --set {}={}", fault.name(), own.rates.get(*fault));
            }
        }
        for ((name, drawn), (_, own)) in drawn.fields().into_iter().zip(own.fields()) {
            if drawn.value() != own.value() {
                let _ = write!(arguments, " --set {name}={}", own.value());
            }
        }
        arguments
    }

    /// Whether clients ask more at once than an upstream may be asked.
    #[must_use]
    pub const fn is_crowded(&self) -> bool {
        let at_once = self.clients as u64 * self.burst as u64;
        // A question may take a connect and two exchanges.
        let in_flight = at_once * 3 * self.round_trip_us / self.pause_us;
        at_once > 300 || in_flight > 300
    }

    /// Whether sizes are so small that everything can be recounted after every step.
    #[must_use]
    pub fn is_tiny(&self) -> bool {
        self.names <= 30 && self.clients <= 3
    }
}

/// An option by its kind.
enum Field<'o> {
    Count(&'o mut usize),
    Number(&'o mut u64),
    Number32(&'o mut u32),
    Switch(&'o mut bool),
}

impl Field<'_> {
    fn value(&self) -> u64 {
        match self {
            Self::Count(count) => **count as u64,
            Self::Number(number) => **number,
            Self::Number32(number) => u64::from(**number),
            Self::Switch(switch) => u64::from(**switch),
        }
    }
}

/// Why an option cannot be set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// There is none of that name.
    #[error("there is no option and no fault called {0}")]
    Name(String),
    /// It cannot have that value.
    #[error("{name} cannot be {value}")]
    Value {
        /// The option.
        name: String,
        /// What it was to be.
        value: u64,
    },
}

/// Each fault is on with probability one half, in a few runs fewer, in a few none; then its rate is
/// drawn. What strikes rarely by its nature is given occasions rarely elsewhere.
fn rates(draw: &mut Draw) -> Rates {
    let mut rates = Rates::none();
    let on = draw.pick(&[0, 100, 500, 500, 500, 500]);
    for fault in Fault::ALL {
        let is_on = draw.chance(on);
        let rate = draw.pick(&[2, 5, 15, 50]);
        if is_on {
            rates.set(*fault, rate);
        }
    }
    rates
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {}: {} queries, {} names (skew {}), {} clients in bursts of {} every {} us",
            self.seed, self.queries, self.names, self.skew, self.clients, self.burst, self.pause_us
        )?;
        writeln!(
            f,
            "  {} engines, {} servers, {} us there and back, data changes every {} s",
            self.engines, self.servers, self.round_trip_us, self.change_seconds
        )?;
        write!(
            f,
            "  in a thousand: {} over streams ({} for HTTP, {} of the others over TLS), {} clients behind \
             proxies, {} servers over TLS or HTTPS, {} with EDNS",
            self.stream_per_mille,
            self.doh_per_mille,
            self.dot_per_mille,
            self.proxied_per_mille,
            self.encrypted_per_mille,
            self.edns_per_mille
        )?;
        for (is_so, what) in [
            (self.tiny_cache, "tiny cache"),
            (self.tiny_limits, "tiny limits"),
            (self.tiny_patience, "tiny patience"),
            (self.policies, "policies"),
        ] {
            if is_so {
                write!(f, "; {what}")?;
            }
        }
        write!(f, "\n  faults, in a thousand:")?;
        for fault in self.rates.on() {
            write!(f, " {} {}", fault.name(), self.rates.get(fault))?;
        }
        writeln!(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_can_be_named_on_the_command_line() {
        let mut options = Options::draw(7, 100);
        assert_eq!(options.arguments(), "--seed 7 --queries 100");
        options.set("engines", 3).expect("it is an option");
        options.set("query-lost", 1_000).expect("it is a fault");
        options.set("tiny-cache", u64::from(!options.tiny_cache)).expect("it is a switch");
        let mut again = Options::draw(7, 100);
        for setting in options.arguments().split(" --set ").skip(1) {
            let (name, value) = setting.split_once('=').expect("name and value");
            again.set(name, value.parse().expect("a number")).expect("it was set before");
        }
        assert_eq!(again, options);
        assert!(matches!(options.set("engine", 3), Err(SetError::Name(_))));
        assert!(matches!(options.set("names", 0), Err(SetError::Value { .. })));
    }

    #[test]
    fn half_of_the_seeds_have_three_faults_and_some_have_none() {
        let counts: Vec<usize> =
            (0..200).map(|seed| Options::draw(seed, 1).rates.on().count()).collect();
        assert!(counts.iter().filter(|count| **count >= 3).count() > 100);
        assert!(counts.contains(&0));
    }
}
