//! DNS over HTTPS as plain values: what a request asks, and how an answer looks (RFC 8484).
//!
//! Knows neither connections nor streams. Whether the client may ask is the engine's question.

use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, request};

use crate::limits::MESSAGE_OCTETS;
use crate::planted::{Bug, is_planted};
use crate::wire::ResponseView;

/// The media type of DNS messages (RFC 8484 section 6).
const DNS_MESSAGE: &str = "application/dns-message";

/// What the head of a request leads to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// The query is in it (GET).
    Query(Vec<u8>),
    /// The query is in the body that follows (POST).
    Body,
    /// It cannot be answered, for this reason.
    Refused(Refusal),
}

/// Why a request is not answered with a DNS message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The parameter `dns` is missing, or it or the body is no DNS query.
    BadRequest,
    /// The client is outside the ACL.
    Forbidden,
    /// Another path than the configured one.
    NotFound,
    /// Neither GET nor POST.
    MethodNotAllowed,
    /// The body did not come in time.
    Timeout,
    /// A body longer than any DNS message.
    TooLarge,
    /// A body of another media type.
    UnsupportedMediaType,
}

impl Refusal {
    /// The status that says so.
    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Timeout => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        }
    }

    /// What a person at the other end reads.
    const fn text(self) -> &'static str {
        match self {
            Self::BadRequest => "expected a DNS query\n",
            Self::Forbidden => "this client may not ask\n",
            Self::NotFound => "nothing is here\n",
            Self::MethodNotAllowed => "expected GET or POST\n",
            Self::Timeout => "the body took too long\n",
            Self::TooLarge => "longer than any DNS message\n",
            Self::UnsupportedMediaType => "expected application/dns-message\n",
        }
    }

    /// The whole response.
    pub(crate) fn response(self) -> Response<Bytes> {
        let mut response = Response::new(Bytes::from_static(self.text().as_bytes()));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        if self == Self::MethodNotAllowed {
            headers.insert(ALLOW, HeaderValue::from_static("GET, POST"));
        }
        response
    }
}

/// Reads the head of a request for the resource at `path` (RFC 8484 section 4.1).
pub(crate) fn read_head(head: &request::Parts, path: &str) -> Head {
    if head.uri.path() != path {
        return Head::Refused(Refusal::NotFound);
    }
    if head.method == Method::GET {
        return query_of(&head.uri).map_or(Head::Refused(Refusal::BadRequest), Head::Query);
    }
    if head.method != Method::POST {
        return Head::Refused(Refusal::MethodNotAllowed);
    }
    if !is_dns_message(&head.headers) {
        return Head::Refused(Refusal::UnsupportedMediaType);
    }
    let announced = head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    match announced.and_then(|length| length.parse::<u64>().ok()) {
        Some(length) if length > MESSAGE_OCTETS as u64 => Head::Refused(Refusal::TooLarge),
        Some(_) | None => Head::Body,
    }
}

/// The parameter `dns` in base64url; padding, which RFC 8484 section 6 forbids, does no harm.
fn query_of(uri: &Uri) -> Option<Vec<u8>> {
    let mut parameters = uri.query()?.split('&').filter_map(|one| one.split_once('='));
    let (_, mut encoded) = parameters.find(|(name, _)| *name == "dns")?;
    while let Some(shorter) =
        ["=", "%3D", "%3d"].iter().find_map(|padding| encoded.strip_suffix(padding))
    {
        encoded = shorter;
    }
    BASE64URL_NOPAD.decode(encoded.as_bytes()).ok().filter(|query| !query.is_empty())
}

/// Whether a body is a DNS message; parameters of the media type mean nothing.
fn is_dns_message(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = value.and_then(|value| value.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case(DNS_MESSAGE))
}

/// An answer (RFC 8484 section 4.2.1). It stays fresh for as long as the DNS data in it
/// (section 5.1).
pub(crate) fn answer(message: &[u8]) -> Response<Bytes> {
    let fresh = ResponseView::parse(message).map_or(0, |view| view.freshness());
    let fresh = fresh + u32::from(is_planted(Bug::FreshForTooLong));
    let mut response = Response::new(Bytes::copy_from_slice(message));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(DNS_MESSAGE));
    headers.insert(CACHE_CONTROL, max_age(fresh));
    response
}

fn max_age(seconds: u32) -> HeaderValue {
    HeaderValue::try_from(format!("max-age={seconds}")).expect("digits belong in a header")
}

/// A request for an upstream.
pub(crate) fn request(uri: Uri, message: &[u8]) -> Request<Bytes> {
    let mut request = Request::new(Bytes::copy_from_slice(message));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    headers.insert(ACCEPT, HeaderValue::from_static(DNS_MESSAGE));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(DNS_MESSAGE));
    request
}

/// The DNS message in an upstream's response.
///
/// # Errors
/// What it is instead: the status if that is another than 200, or no DNS message.
pub(crate) fn read_response(response: &Response<Bytes>) -> Result<&[u8], StatusCode> {
    let status = response.status();
    let is_message = status == StatusCode::OK && is_dns_message(response.headers());
    if is_message { Ok(response.body()) } else { Err(status) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `www.example.com A`, as in RFC 8484 section 4.1.1.
    const ENCODED: &str = "AAABAAABAAAAAAAAA3d3dwdleGFtcGxlA2NvbQAAAQAB";

    fn head(method: Method, target: &str, headers: &[(&str, &str)]) -> request::Parts {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("valid").into_parts().0
    }

    fn get(target: &str) -> Head {
        read_head(&head(Method::GET, target, &[]), "/dns-query")
    }

    fn post(headers: &[(&str, &str)]) -> Head {
        read_head(&head(Method::POST, "/dns-query", headers), "/dns-query")
    }

    #[test]
    fn the_example_of_the_rfc_is_read() {
        let Head::Query(query) = get(&format!("https://dns.test/dns-query?dns={ENCODED}")) else {
            panic!("it is a query");
        };
        assert_eq!(query.len(), 33);
        assert_eq!(&query[12..], b"\x03www\x07example\x03com\0\0\x01\0\x01");
    }

    #[test]
    fn other_parameters_and_padding_do_no_harm() {
        let plain = get("/dns-query?dns=AAAA");
        for target in [
            "/dns-query?dns=AAAA&ct=application/dns-message",
            "/dns-query?a=b&c&dns=AAAA",
            "/dns-query?dns=AAAA=",
            "/dns-query?dns=AAAA%3D%3d",
        ] {
            assert_eq!(get(target), plain, "{target}");
        }
    }

    #[test]
    fn what_is_no_query_is_refused() {
        let bad = Head::Refused(Refusal::BadRequest);
        for target in
            ["", "?", "?dns", "?dns=", "?dns===", "?dns=A", "?dns=AA+A", "?dns=AA/A", "?d=AAAA"]
        {
            assert_eq!(get(&format!("/dns-query{target}")), bad, "{target}");
        }
        assert_eq!(get("/dns-query/?dns=AAAA"), Head::Refused(Refusal::NotFound));
        assert_eq!(get("/?dns=AAAA"), Head::Refused(Refusal::NotFound));
        for method in [Method::PUT, Method::HEAD, Method::OPTIONS, Method::DELETE] {
            let read = read_head(&head(method, "/dns-query?dns=AAAA", &[]), "/dns-query");
            assert_eq!(read, Head::Refused(Refusal::MethodNotAllowed));
        }
    }

    #[test]
    fn a_body_is_taken_by_its_media_type_and_length() {
        for media_type in [DNS_MESSAGE, "Application/DNS-Message", "application/dns-message; a=b"] {
            assert_eq!(post(&[("content-type", media_type)]), Head::Body, "{media_type}");
        }
        let unsupported = Head::Refused(Refusal::UnsupportedMediaType);
        assert_eq!(post(&[]), unsupported);
        assert_eq!(post(&[("content-type", "application/dns-json")]), unsupported);
        assert_eq!(post(&[("content-type", "application/dns-message2")]), unsupported);
        let sized = |length| post(&[("content-type", DNS_MESSAGE), ("content-length", length)]);
        assert_eq!(sized("65535"), Head::Body);
        assert_eq!(sized("65536"), Head::Refused(Refusal::TooLarge));
    }

    #[test]
    fn a_refusal_says_what_was_expected() {
        let response = Refusal::MethodNotAllowed.response();
        assert_eq!(response.status(), 405);
        assert_eq!(response.headers()["allow"], "GET, POST");
        assert_eq!(&response.body()[..], b"expected GET or POST\n");
        assert!(!Refusal::NotFound.response().headers().contains_key("allow"));
    }

    #[test]
    fn an_upstreams_response_is_a_message_or_a_status() {
        let response = |status: u16, media_type: &str| {
            let mut response = Response::new(Bytes::from_static(b"body"));
            *response.status_mut() = StatusCode::from_u16(status).expect("valid");
            let value = HeaderValue::from_str(media_type).expect("valid");
            response.headers_mut().insert(CONTENT_TYPE, value);
            response
        };
        assert_eq!(read_response(&response(200, DNS_MESSAGE)), Ok(&b"body"[..]));
        assert_eq!(
            read_response(&response(503, DNS_MESSAGE)),
            Err(StatusCode::SERVICE_UNAVAILABLE)
        );
        assert_eq!(read_response(&response(200, "text/html")), Err(StatusCode::OK));
    }

    proptest! {
        #[test]
        fn any_query_comes_through_a_get(query in prop::collection::vec(any::<u8>(), 1..600)) {
            let target = format!("/dns-query?dns={}", BASE64URL_NOPAD.encode(&query));
            prop_assert_eq!(get(&target), Head::Query(query));
        }

        #[test]
        fn no_parameter_makes_it_panic(parameter in "[!-~&&[^#<>\"{}|\\\\^`]]{0,60}") {
            let _read = get(&format!("/dns-query?dns={parameter}"));
        }
    }
}
