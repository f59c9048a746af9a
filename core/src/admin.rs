//! Metrics and health over HTTP: a request in, a response out.
//!
//! Owns paths, methods, status codes and bodies. Does not read from connections or clocks.

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use serde::Serialize;

use crate::exposition::{self, Readings};
use crate::supervisor::ComponentStatus;
use crate::time::{Duration, Instant};

/// What an answer is made of.
#[derive(Debug, Clone)]
pub struct View {
    /// All components, by name.
    pub components: Vec<ComponentStatus>,
    /// Whether clients may be sent here.
    pub ready: bool,
    /// What is counted.
    pub readings: Readings,
    /// Now, on the clock that the components' times are of.
    pub now: Instant,
    /// Now, since 1970 in UTC.
    pub unix_now: Duration,
}

impl View {
    /// Whether everything required is in order. Blind to draining.
    fn is_healthy(&self) -> bool {
        self.components.iter().filter(|c| c.required).all(ComponentStatus::is_healthy)
    }

    fn rfc3339(&self, at: Instant) -> String {
        rfc3339(self.unix_now.saturating_sub(self.now.since(at)))
    }
}

/// Answers a request.
#[must_use]
pub fn respond(request: &Request<()>, view: &View) -> Response<Bytes> {
    let path = request.uri().path();
    if !["/metrics", "/healthz", "/readyz", "/statusz"].contains(&path) {
        return plain(StatusCode::NOT_FOUND, "not found\n");
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let mut response = match path {
        "/metrics" => metrics(view),
        "/healthz" => status(view, view.is_healthy(), true),
        "/readyz" => status(view, view.is_healthy() && view.ready, true),
        _ => status(view, view.is_healthy(), false),
    };
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if request.method() == Method::HEAD {
        let len = HeaderValue::from(response.body().len());
        response.headers_mut().insert(CONTENT_LENGTH, len);
        *response.body_mut() = Bytes::new();
    }
    response
}

fn plain(code: StatusCode, text: &'static str) -> Response<Bytes> {
    typed(code, "text/plain; charset=utf-8", Bytes::from_static(text.as_bytes()))
}

fn metrics(view: &View) -> Response<Bytes> {
    let text = exposition::text(&view.readings, &view.components);
    typed(StatusCode::OK, exposition::MEDIA_TYPE, text.into())
}

fn typed(code: StatusCode, media_type: &'static str, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// The body that all health paths share. Field names are a contract with operators' checks.
#[derive(Serialize)]
struct StatusBody<'a> {
    status: &'static str,
    timestamp: String,
    components: Vec<ComponentBody<'a>>,
}

#[derive(Serialize)]
struct ComponentBody<'a> {
    name: &'a str,
    required: bool,
    running: bool,
    restarts: u64,
    consecutive_failures: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_start_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_stop_at: Option<String>,
}

fn status(view: &View, is_ok: bool, tell_by_code: bool) -> Response<Bytes> {
    let components = view.components.iter().map(|component| ComponentBody {
        name: component.name,
        required: component.required,
        running: component.running,
        restarts: component.restarts,
        consecutive_failures: component.consecutive_failures,
        last_error: component.last_error.as_deref(),
        last_start_at: component.last_start_at.map(|at| view.rfc3339(at)),
        last_stop_at: component.last_stop_at.map(|at| view.rfc3339(at)),
    });
    let body = StatusBody {
        status: if is_ok { "ok" } else { "degraded" },
        timestamp: rfc3339(view.unix_now),
        components: components.collect(),
    };
    let body = serde_json::to_vec(&body).expect("strings and numbers can be written");
    let code =
        if is_ok || !tell_by_code { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    typed(code, "application/json", body.into())
}

/// A time since 1970 in UTC as RFC 3339 writes it, with milliseconds.
fn rfc3339(since_1970: Duration) -> String {
    let (year, month, day) = civil(since_1970.as_secs() / 86_400);
    let seconds = since_1970.as_secs() % 86_400;
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    let millis = since_1970.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// Year, month and day of a day since 1970, in the Gregorian calendar. Years are counted from
/// March, so that the leap day is the last of its year, in eras of 400 years, which repeat.
fn civil(days_since_1970: u64) -> (u64, u64, u64) {
    const DAYS_FROM_MARCH_0_TO_1970: u64 = 719_468;
    const ERA_DAYS: u64 = 146_097;
    let days = days_since_1970 + DAYS_FROM_MARCH_0_TO_1970;
    let (era, day_of_era) = (days / ERA_DAYS, days % ERA_DAYS);
    let leap_days = day_of_era / 1_460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn component(name: &'static str, required: bool, running: bool) -> ComponentStatus {
        ComponentStatus {
            name,
            required,
            running,
            finishing: false,
            restarts: 0,
            consecutive_failures: 0,
            last_error: None,
            last_start_at: None,
            last_stop_at: None,
        }
    }

    fn view(components: Vec<ComponentStatus>, ready: bool) -> View {
        View {
            components,
            ready,
            readings: Readings::default(),
            now: Instant::ZERO + Duration::from_secs(100),
            unix_now: Duration::from_millis(1_700_000_000_250),
        }
    }

    fn ask(method: Method, path: &str, view: &View) -> Response<Bytes> {
        let request = Request::builder().method(method).uri(path).body(()).expect("valid");
        respond(&request, view)
    }

    fn code(path: &str, view: &View) -> u16 {
        ask(Method::GET, path, view).status().as_u16()
    }

    #[test]
    fn health_ignores_draining_and_readiness_does_not() {
        let draining = view(vec![component("dns-udp", true, true)], false);
        assert_eq!((code("/healthz", &draining), code("/readyz", &draining)), (200, 503));
        let ready = view(vec![component("dns-udp", true, true)], true);
        assert_eq!((code("/healthz", &ready), code("/readyz", &ready)), (200, 200));
    }

    #[test]
    fn only_what_is_required_degrades() {
        let metrics = component("metrics-http", false, false);
        let fine = view(vec![component("dns-udp", true, true), metrics], true);
        assert_eq!((code("/healthz", &fine), code("/readyz", &fine)), (200, 200));
        let down = view(vec![component("dns-udp", true, false)], true);
        let codes = (code("/healthz", &down), code("/readyz", &down), code("/statusz", &down));
        assert_eq!(codes, (503, 503, 200));
        let mut finishing = down.clone();
        finishing.components[0].finishing = true;
        assert_eq!(code("/healthz", &finishing), 200);
    }

    #[test]
    fn the_body_is_what_operators_checks_read() {
        let mut udp = component("dns-udp", true, false);
        udp.restarts = 2;
        udp.consecutive_failures = 1;
        udp.last_error = Some("panicked".to_owned());
        udp.last_start_at = Some(Instant::ZERO + Duration::from_secs(98));
        udp.last_stop_at = Some(Instant::ZERO + Duration::from_millis(99_500));
        let view = view(vec![component("dns-tcp", true, true), udp], true);
        let response = ask(Method::GET, "/statusz?pretty", &view);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        let body = std::str::from_utf8(response.body()).expect("text");
        let expected = concat!(
            r#"{"status":"degraded","timestamp":"2023-11-14T22:13:20.250Z","components":["#,
            r#"{"name":"dns-tcp","required":true,"running":true,"restarts":0,"#,
            r#""consecutive_failures":0},"#,
            r#"{"name":"dns-udp","required":true,"running":false,"restarts":2,"#,
            r#""consecutive_failures":1,"last_error":"panicked","#,
            r#""last_start_at":"2023-11-14T22:13:18.250Z","#,
            r#""last_stop_at":"2023-11-14T22:13:19.750Z"}]}"#,
        );
        assert_eq!(body, expected);
    }

    #[test]
    fn methods_and_paths() {
        let view = view(Vec::new(), true);
        let refused = ask(Method::POST, "/metrics", &view);
        assert_eq!(
            (refused.status().as_u16(), &refused.headers()[ALLOW]),
            (405, &HeaderValue::from_static("GET, HEAD"))
        );
        for path in ["/", "/metrics/", "/health"] {
            assert_eq!(code(path, &view), 404);
        }
        let full = ask(Method::GET, "/metrics", &view);
        let head = ask(Method::HEAD, "/metrics", &view);
        assert_eq!(full.headers()[CONTENT_TYPE], exposition::MEDIA_TYPE);
        assert!(head.body().is_empty());
        assert_eq!(head.headers()[CONTENT_LENGTH], full.body().len().to_string());
    }

    #[test]
    fn dates() {
        let day = |days: u64| rfc3339(Duration::from_secs(days * 86_400))[..10].to_owned();
        assert_eq!(day(0), "1970-01-01");
        assert_eq!(day(59), "1970-03-01");
        assert_eq!(day(11_016), "2000-02-29");
        assert_eq!(day(20_780), "2026-11-23");
        assert_eq!(day(47_540), "2100-02-28");
        assert_eq!(day(47_541), "2100-03-01");
    }

    proptest! {
        /// Each day is the one after the day before it.
        #[test]
        fn days_follow_each_other(days in 0_u64..1_000_000) {
            let (year, month, day) = civil(days);
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let last = match month {
                2 => 28 + u64::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            let next = match (month, day) {
                (12, 31) => (year + 1, 1, 1),
                (_, day) if day == last => (year, month + 1, 1),
                _ => (year, month, day + 1),
            };
            prop_assert_eq!(civil(days + 1), next);
        }
    }
}
