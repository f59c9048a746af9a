//! What is said to executables and what they say: JSON (RFC 8259).

use std::fmt;

use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::super::{PolicyError, PolicyQuestion, PolicyVerdict};
use super::{Field, problem, verdict};
use crate::wire::DisplayName;

/// What an executable gets: one line of JSON, with an id if it is kept running.
///
/// # Panics
/// Never: texts and numbers are always JSON.
#[must_use]
pub fn question_json(question: &PolicyQuestion<'_>, id: Option<u64>) -> Vec<u8> {
    let asked = Asked {
        id,
        question: Question {
            domain: DisplayName(question.name).to_string(),
            r#type: question.record_type.to_string(),
            qtype: question.record_type.0,
            client: question.client.map(|client| client.to_string()),
            transport: question.transport.map(|transport| transport.name()),
        },
    };
    let mut line = serde_json::to_vec(&asked).expect("texts and numbers are JSON");
    line.push(b'\n');
    line
}

/// The verdict in an executable's output: one object, or the name of an action alone.
///
/// # Errors
/// It is no verdict.
pub fn decode_json(output: &[u8]) -> Result<PolicyVerdict, PolicyError> {
    verdict(&parse(output)?)
}

/// Id and verdict in a line of an executable that is kept running: the object has an `id` beside
/// what else it has.
///
/// # Errors
/// There is no id: it cannot be told whose verdict it is.
pub fn decode_line(line: &[u8]) -> Result<(u64, Result<PolicyVerdict, PolicyError>), PolicyError> {
    let Field::Object(mut entries) = parse(line)? else {
        return Err(problem("no object with an id"));
    };
    let Some(at) = entries.iter().position(|(name, _)| name == "id") else {
        return Err(problem("id is missing"));
    };
    let (_, id) = entries.remove(at);
    if entries.iter().any(|(name, _)| name == "id") {
        return Err(problem("id is there twice"));
    }
    let Field::Whole(id) = id else {
        return Err(problem(&format!("id is {} instead of a question's", id.kind())));
    };
    Ok((id, verdict(&Field::Object(entries))))
}

/// One value from end to end. Nesting is bounded by serde_json, size by who collects the output.
fn parse(octets: &[u8]) -> Result<Field, PolicyError> {
    if octets.iter().all(u8::is_ascii_whitespace) {
        return Err(problem("nothing was written"));
    }
    serde_json::from_slice(octets).map_err(|error| problem(&format!("no JSON: {error}")))
}

/// A question, as it is written.
#[derive(Serialize)]
struct Asked {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    question: Question,
}

#[derive(Serialize)]
struct Question {
    domain: String,
    r#type: String,
    qtype: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transport: Option<&'static str>,
}

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FieldVisitor)
    }
}

/// Takes whatever JSON has, as it is.
struct FieldVisitor;

impl<'de> Visitor<'de> for FieldVisitor {
    type Value = Field;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Field, E> {
        Ok(Field::Nothing)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Field, E> {
        Ok(Field::Other("a boolean"))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Field, E> {
        Ok(Field::Whole(number))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Field, E> {
        match u64::try_from(number) {
            Ok(number) => Ok(Field::Whole(number)),
            Err(_) => Ok(Field::Other("a negative number")),
        }
    }

    fn visit_f64<E>(self, number: f64) -> Result<Field, E> {
        Ok(Field::Number(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Field, E> {
        Ok(Field::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Field, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Field::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Field, A::Error> {
        let mut object = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            object.push(entry);
        }
        Ok(Field::Object(object))
    }
}
