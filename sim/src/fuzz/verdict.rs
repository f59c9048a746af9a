//! Results of plugins: the decoder takes what a naive reading takes, and nothing else becomes
//! "forward".

use balancedns_core::policy::{
    Choice, PolicyAction, PolicyError, PolicyVerdict, decode_json, decode_line,
};
use serde_json::{Map, Value};

/// The largest TTL, and what stands for none.
const TTL_MAX: u32 = 0x7fff_ffff;
const ADDRESSES_MAX: usize = 64;

/// `data` is what an executable wrote.
///
/// # Panics
/// If a property is broken.
pub fn verdict(data: &[u8]) {
    if data.len() > 70_000 {
        return;
    }
    let parsed = serde_json::from_slice::<Value>(data).ok();
    match decode_json(data) {
        Ok(verdict) => {
            let value = parsed.as_ref().expect("what is decoded is JSON");
            assert_bounded(&verdict);
            assert_said(&verdict, value);
            // Written by somebody else, it is the same.
            let again = written(&verdict).to_string();
            assert_eq!(decode_json(again.as_bytes()), Ok(verdict.clone()), "{again}");
            assert_line(&verdict, 7);
        }
        Err(error) => assert_error(&error),
    }
    if let Ok((id, verdict)) = decode_line(data) {
        let value = parsed.as_ref().expect("what is decoded is JSON");
        assert_eq!(value.get("id").and_then(Value::as_u64), Some(id));
        match verdict {
            Ok(verdict) => assert_line(&verdict, id),
            Err(error) => assert_error(&error),
        }
    }
}

fn assert_error(error: &PolicyError) {
    let PolicyError::Result(text) = error else { panic!("{error} is none of a decoder") };
    assert!(!text.is_empty() && text.len() < 1_000, "{text:?}");
    assert!(!text.contains(char::is_control), "{text:?}");
}

/// The same verdict in a line with an id.
fn assert_line(verdict: &PolicyVerdict, id: u64) {
    let mut object = written(verdict);
    object["id"] = id.into();
    let line = object.to_string();
    assert_eq!(decode_line(line.as_bytes()), Ok((id, Ok(verdict.clone()))), "{line}");
}

fn assert_bounded(verdict: &PolicyVerdict) {
    let ttl = verdict.ttl;
    assert!(ttl.min <= ttl.max && ttl.min <= TTL_MAX, "{verdict:?}");
    assert!(ttl.max <= TTL_MAX || ttl.max == u32::MAX, "{verdict:?}");
    match &verdict.action {
        PolicyAction::LocalData { ttl, v4, v6 } => {
            assert!(*ttl <= TTL_MAX);
            // One in `ip`, the others in `ips`.
            assert!((1..=ADDRESSES_MAX + 1).contains(&(v4.len() + v6.len())));
        }
        PolicyAction::Rewrite { record_type, .. } => {
            assert!(record_type.is_none_or(|record_type| record_type.0 > 0));
        }
        PolicyAction::Forward
        | PolicyAction::Block
        | PolicyAction::Drop
        | PolicyAction::Truncate => {}
    }
}

/// The action is the one that the text names, by itself or as `action`.
fn assert_said(verdict: &PolicyVerdict, value: &Value) {
    let named = value.as_str().or_else(|| value.get("action")?.as_str()).expect("an action");
    let named = named.to_ascii_uppercase();
    let expected = if named == "TC" { "TRUNCATE" } else { &named };
    assert_eq!(name_of(&verdict.action), expected, "{value}");
}

fn name_of(action: &PolicyAction) -> &'static str {
    match action {
        PolicyAction::Forward => "FORWARD",
        PolicyAction::Block => "BLOCK",
        PolicyAction::Rewrite { .. } => "REWRITE",
        PolicyAction::LocalData { .. } => "LOCAL_DATA",
        PolicyAction::Drop => "DROP",
        PolicyAction::Truncate => "TRUNCATE",
    }
}

/// A verdict as an executable might write it.
fn written(verdict: &PolicyVerdict) -> Value {
    let mut object = Map::new();
    object.insert("action".into(), name_of(&verdict.action).into());
    match &verdict.action {
        PolicyAction::Rewrite { name, record_type } => {
            object.insert("rewrite_domain".into(), name.to_string().into());
            if let Some(record_type) = record_type {
                object.insert("rewrite_type".into(), record_type.0.into());
            }
        }
        PolicyAction::LocalData { ttl, v4, v6 } => {
            let v4 = v4.iter().map(ToString::to_string);
            let mut ips: Vec<String> = v4.chain(v6.iter().map(ToString::to_string)).collect();
            // Of one more than fit into `ips`, one was in `ip`; which one shows in its family only.
            let ip = (ips.len() > ADDRESSES_MAX).then(|| ips.remove(0));
            let data = serde_json::json!({ "ttl": ttl, "ip": ip, "ips": ips });
            object.insert("local_data".into(), data);
        }
        PolicyAction::Forward
        | PolicyAction::Block
        | PolicyAction::Drop
        | PolicyAction::Truncate => {}
    }
    match &verdict.choice {
        Some(Choice::Upstream(name)) => {
            drop(object.insert("upstream".into(), name.as_ref().into()))
        }
        Some(Choice::Pool(name)) => drop(object.insert("pool".into(), name.as_ref().into())),
        None => {}
    }
    if verdict.ttl.min > 0 {
        object.insert("min_ttl".into(), verdict.ttl.min.into());
    }
    if verdict.ttl.max < u32::MAX {
        object.insert("max_ttl".into(), verdict.ttl.max.into());
    }
    Value::Object(object)
}
