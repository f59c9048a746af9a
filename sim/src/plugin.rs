//! What a plugin's process is told and answers: lines of JSON, by hand and to the letter.
//!
//! Not with the core's code: what comes is compared octet by octet with what an executable may rely
//! on (docs/POLICIES.md).

use std::fmt::Write as _;
use std::net::IpAddr;

/// A question as a process gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Under which it has to be answered, by a process that is kept running.
    pub id: Option<u64>,
    /// In lower case with the final dot.
    pub domain: String,
    /// The name of the type.
    pub record_type: String,
    /// Its number.
    pub qtype: u16,
    /// Who asks, if that is told.
    pub client: Option<IpAddr>,
    /// Over what, if that is told.
    pub transport: Option<String>,
}

impl Told {
    /// Reads a line, without the end of it.
    ///
    /// # Errors
    /// What is odd about it.
    pub fn read(line: &str) -> Result<Self, String> {
        let odd = || format!("a question is not written like this: {line}");
        let told = Self::find(line).ok_or_else(odd)?;
        if told.write() == line { Ok(told) } else { Err(odd()) }
    }

    /// Each field where it is, whatever is between them.
    fn find(line: &str) -> Option<Self> {
        let after = |key: &str| line.split_once(&format!("\"{key}\":")).map(|(_, rest)| rest);
        let number = |key| {
            let rest: &str = after(key)?;
            rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u64>().ok()
        };
        let text = |key| string(after(key)?.strip_prefix('"')?);
        Some(Self {
            id: number("id"),
            domain: text("domain")?,
            record_type: text("type")?,
            qtype: number("qtype")?.try_into().ok()?,
            client: text("client").map(|text| text.parse()).transpose().ok()?,
            transport: text("transport"),
        })
    }

    /// The line that this is.
    #[must_use]
    pub fn write(&self) -> String {
        let Self { id, domain, record_type, qtype, client, transport } = self;
        let mut line = String::from("{");
        if let Some(id) = id {
            let _ = write!(line, "\"id\":{id},");
        }
        let domain = domain.replace('\\', "\\\\").replace('"', "\\\"");
        let _ = write!(
            line,
            "\"question\":{{\"domain\":\"{domain}\",\"type\":\"{record_type}\",\"qtype\":{qtype}"
        );
        if let Some(client) = client {
            let _ = write!(line, ",\"client\":\"{client}\"");
        }
        if let Some(transport) = transport {
            let _ = write!(line, ",\"transport\":\"{transport}\"");
        }
        line.push_str("}}");
        line
    }

    /// An answer to it: an object that gets its id.
    #[must_use]
    pub fn answer(&self, object: &str) -> String {
        match (self.id, object.strip_prefix('{')) {
            (Some(id), Some(rest)) => format!("{{\"id\":{id},{rest}\n"),
            _ => format!("{object}\n"),
        }
    }
}

/// A JSON string behind its first quote, as far as names need it.
fn string(text: &str) -> Option<String> {
    let mut found = String::new();
    let mut characters = text.chars();
    loop {
        match characters.next()? {
            '"' => return Some(found),
            '\\' => found.push(characters.next().filter(|c| matches!(c, '"' | '\\'))?),
            other => found.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_read_to_the_letter() {
        let line = r#"{"id":7,"question":{"domain":"a\\.b.example.","type":"A","qtype":1,"client":"10.0.0.1","transport":"udp"}}"#;
        let told = Told::read(line).expect("it is a question");
        assert_eq!((told.id, told.qtype, told.domain.as_str()), (Some(7), 1, "a\\.b.example."));
        assert_eq!(told.answer("{\"action\":\"BLOCK\"}"), "{\"id\":7,\"action\":\"BLOCK\"}\n");
        let plain = r#"{"question":{"domain":"b.example.","type":"TYPE65280","qtype":65280}}"#;
        let told = Told::read(plain).expect("it is a question");
        assert_eq!((told.id, told.client), (None, None));
        assert_eq!(told.answer("{}"), "{}\n");
        let spaced = plain.replace(':', ": ");
        let more = plain.replace("}}", ",\"class\":1}}");
        for odd in ["", "{}", &spaced, &more, &format!("{plain} ")] {
            assert!(Told::read(odd).is_err(), "{odd}");
        }
    }
}
