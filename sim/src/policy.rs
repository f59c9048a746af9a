//! Policies of the world: a name says what a plugin does with it, in its own labels.
//!
//! `n12.block.p.example.` is blocked by the script, `n12.block.x.example.` by the executable, and
//! `n12.n7.ru.rw.p.example.` becomes `n7.ru.`. So the world's plugins know what to do from the name
//! alone, and whoever judges a reply knows it as well, without any code of the core.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Who acts on a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Runtime {
    /// The script.
    Lua,
    /// The executable.
    Exec,
}

impl Runtime {
    /// The label that marks names of its own.
    #[must_use]
    pub const fn mark(self) -> &'static str {
        match self {
            Self::Lua => "p",
            Self::Exec => "x",
        }
    }

    /// The name of the plugin.
    #[must_use]
    pub const fn plugin(self) -> &'static str {
        match self {
            Self::Lua => "script",
            Self::Exec => "judge",
        }
    }
}

/// What a plugin does with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Act {
    /// BLOCK.
    Block,
    /// REWRITE to the name of this place.
    Rewrite(usize),
    /// LOCAL_DATA.
    Local,
    /// TRUNCATE.
    Truncate,
    /// FORWARD to the pool.
    Pool,
    /// It fails: raises an error, or ends with another code than 0.
    Fail,
    /// It never comes to an end.
    Loop,
    /// It takes all memory that it gets.
    Bomb,
    /// Its result is none.
    Odd,
    /// It fails now and then.
    Flap,
}

/// A name that a plugin acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ruled {
    /// Which plugin.
    pub by: Runtime,
    /// What it does.
    pub act: Act,
}

impl Ruled {
    /// The labels that say so, with the name of whoever it is rewritten to.
    #[must_use]
    pub fn labels(self, target: Option<&str>) -> String {
        let word = match self.act {
            Act::Block => "block".to_owned(),
            Act::Rewrite(_) => format!("{}rw", target.unwrap_or_default()),
            Act::Local => "local".to_owned(),
            Act::Truncate => "tc".to_owned(),
            Act::Pool => "pool".to_owned(),
            Act::Fail => "fail".to_owned(),
            Act::Loop => "loop".to_owned(),
            Act::Bomb => "bomb".to_owned(),
            Act::Odd => "odd".to_owned(),
            Act::Flap => "flap".to_owned(),
        };
        format!("{word}.{}", self.by.mark())
    }
}

/// Seconds of LOCAL_DATA.
pub const LOCAL_TTL: u32 = 77;
/// Scripts that there are: their local data differ.
pub const VARIANTS: u64 = 3;
/// The pool that plugins choose.
pub const POOL: &str = "aside";

/// The address of LOCAL_DATA: the number of the name, and the variant of the plugin.
#[must_use]
pub fn local_v4(number: usize, variant: u64) -> Ipv4Addr {
    let [.., high, low] = (number as u64).to_be_bytes();
    Ipv4Addr::new(10, u8::try_from(70 + variant).unwrap_or(u8::MAX), high, low)
}

/// The same as an IPv6 address.
#[must_use]
pub fn local_v6(number: usize, variant: u64) -> Ipv6Addr {
    let second = u16::try_from(70 + variant).unwrap_or(u16::MAX);
    Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0x0a00 | second, number as u16)
}

/// The script of a variant. What it remembers of a call that failed makes it tell nonsense, so that a
/// VM that outlives an error shows.
#[must_use]
pub fn script(variant: u64) -> String {
    format!(
        r#"local failed, calls = false, 0
local acts = {{}}
function acts.block() return "Block" end
function acts.tc() return {{ action = "TRUNCATE" }} end
function acts.pool() return {{ action = "FORWARD", pool = "{POOL}" }} end
function acts.fail() failed = true; error("as its name says") end
function acts.loop() failed = true; while true do end end
function acts.bomb()
  failed = true
  local text = "a bomb"
  while true do text = text .. text end
end
function acts.odd() failed = true; return {{ action = "FORWARD", rewrite_domian = "a.example" }} end
function acts.flap()
  calls = calls + 1
  if calls % 3 == 0 then failed = true; error("now and then") end
  return nil
end
acts["local"] = function(number)
  local high, low = math.floor(number / 256), number % 256
  local v4 = string.format("10.{second}.%d.%d", high, low)
  local v6 = string.format("fd77::a{hexadecimal:02x}:%x", number)
  return {{ action = "LOCAL_DATA", local_data = {{ ttl = {LOCAL_TTL}, ips = {{ v4, v6 }} }} }}
end
function handle(question)
  if failed then
    return {{ action = "LOCAL_DATA", local_data = {{ ip = "10.66.66.66" }} }}
  end
  local number, word = string.match(question.domain, "^n(%d+)%.(.-)%.p%.")
  if not number then return nil end
  local target = string.match(word, "^(.*)%.rw$")
  if target then
    return {{ action = "rewrite", rewrite_domain = target }}
  end
  local act = acts[word]
  return act and act(tonumber(number))
end
"#,
        second = 70 + variant,
        hexadecimal = 70 + variant,
    )
}

/// What the executable writes for a name: an object, or nothing for what it has no answer to.
#[must_use]
pub fn verdict(domain: &str, variant: u64) -> Option<String> {
    let forward = || Some("{\"action\":\"FORWARD\"}".to_owned());
    let Some((number, word)) = own_word(domain) else { return forward() };
    if let Some(target) = word.strip_suffix(".rw") {
        return Some(format!("{{\"action\":\"REWRITE\",\"rewrite_domain\":\"{target}.\"}}"));
    }
    match word {
        "block" => Some("{\"action\":\"block\"}".to_owned()),
        "tc" => Some("{\"action\":\"TC\"}".to_owned()),
        "pool" => Some(format!("{{\"action\":\"FORWARD\",\"pool\":\"{POOL}\"}}")),
        "local" => {
            let (v4, v6) = (local_v4(number, variant), local_v6(number, variant));
            Some(format!(
                "{{\"action\":\"LOCAL_DATA\",\"local_data\":{{\"ttl\":{LOCAL_TTL},\"ip\":\"{v4}\",\"ips\":[\"{v6}\"]}}}}"
            ))
        }
        "odd" => Some("{\"action\":\"FORWARD\",\"pol\":\"aside\"}".to_owned()),
        "fail" | "loop" => None,
        _ => forward(),
    }
}

/// Whether what the executable writes for a name is no verdict.
#[must_use]
pub fn is_odd(domain: &str) -> bool {
    own_word(domain).is_some_and(|(_, word)| word == "odd")
}

/// The number of a name, and the word in it that is meant for the executable.
fn own_word(domain: &str) -> Option<(usize, &str)> {
    let (number, rest) = domain.strip_prefix('n')?.split_once('.')?;
    let (word, _) = rest.split_once(".x.")?;
    Some((number.parse().ok()?, word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_the_executable_does() {
        let said = |name: &str| verdict(name, 1);
        assert_eq!(said("n7.ru.").as_deref(), Some("{\"action\":\"FORWARD\"}"));
        assert_eq!(said("n7.block.p.ru.").as_deref(), Some("{\"action\":\"FORWARD\"}"));
        assert_eq!(said("n7.block.x.ru.").as_deref(), Some("{\"action\":\"block\"}"));
        assert_eq!(said("n7.fail.x.ru."), None);
        assert!(is_odd("n7.odd.x.ru."));
        // The word is in the name that the script makes of it.
        assert!(!is_odd("n9.n7.odd.x.ru.rw.p.net."));
        assert_eq!(said("n9.n7.odd.x.ru.rw.p.net."), said("n7.ru."));
        let target = "{\"action\":\"REWRITE\",\"rewrite_domain\":\"n3.a.corp.example.\"}";
        assert_eq!(said("n9.n3.a.corp.example.rw.x.net.").as_deref(), Some(target));
        assert!(said("n258.local.x.ru.").expect("an answer").contains("\"10.71.1.2\""));
        let rewritten = Ruled { by: Runtime::Exec, act: Act::Rewrite(3) };
        assert_eq!(rewritten.labels(Some("n3.a.corp.example.")), "n3.a.corp.example.rw.x");
    }
}
