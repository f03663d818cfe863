//! HTTP for the gateway: parses request heads, and writes responses.
//!
//! Only HTTP/1.1 and 1.0, and only what two parsers cannot interpret differently: each line ends in CRLF, and a body
//! has one length, given once and in digits. Anything else is rejected with a status, and nothing after it is read.
//! Every received byte is examined once, however the input is split, and an announced length costs nothing before the
//! bytes arrive.

use crate::limits::{HTTP_HEAD_BYTES_MAX, HTTP_HEADERS_MAX};
use bytes::{BufMut, BytesMut};
use std::borrow::Cow;
use std::io::Write;

/// An invalid request, with the response status. Nothing was executed, and the connection is unusable afterwards.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{status}: {why}")]
pub struct HttpError {
    /// 400 to 505.
    pub status: u16,
    /// The reason, in a few words.
    pub why: Cow<'static, str>,
}

impl HttpError {
    /// An error with that status and reason.
    pub fn new(status: u16, why: impl Into<Cow<'static, str>>) -> HttpError {
        HttpError { status, why: why.into() }
    }
}

/// The method of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Method {
    /// Read the resource.
    #[default]
    Get,
    /// Read the resource without its body.
    Head,
    /// Set the resource.
    Put,
    /// Delete the resource.
    Delete,
    /// Any other method.
    Other,
}

/// The head of a request: the parts that the gateway uses.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// The path: begins with a slash; still percent-encoded.
    pub path: String,
    /// The query after the question mark; still percent-encoded.
    pub query: String,
    /// The host that the client addressed: `host` or `host:port`. Always present, except in HTTP/1.0.
    pub host: Option<String>,
    /// The length of the body in bytes.
    pub length: u64,
    /// Whether the connection stays open after the response.
    pub keeps: bool,
    /// Whether the client uses HTTP/1.0, and must be told that the connection stays open.
    pub is_old: bool,
    /// Whether the body comes only on request (`Expect: 100-continue`).
    pub holds_back: bool,
    /// `Authorization: Bearer …`
    pub token: Option<String>,
    /// `Origin`: the site whose page made the browser send the request.
    pub origin: Option<String>,
    /// `Sec-Fetch-Site`: the relation of that site to this one, according to the browser.
    pub site: Option<String>,
    /// `Accept`: the media types that the client accepts; several fields are joined by commas.
    pub accept: Option<String>,
    /// `If-Match`
    pub if_match: Option<String>,
    /// `If-None-Match`
    pub if_none_match: Option<String>,
}

/// Reads request heads from bytes as they arrive.
///
/// Invariant: the bytes up to `looked` contain no end of a head, and no line feed without CR.
#[derive(Clone, Debug, Default)]
pub struct Reader {
    looked: usize,
}

impl Reader {
    /// The next head, if it is complete. Removes it from the input.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<RequestHead>, HttpError> {
        // Some clients send an extra line after a body.
        while input.starts_with(b"\r\n") {
            let _an_empty_line = input.split_to(2);
            self.looked = 0;
        }
        // Any other first byte, as in TLS, can never become a request, so there is nothing to wait for.
        if input.first().is_some_and(|first| !first.is_ascii_alphabetic() && *first != b'\r') {
            return Err(HttpError::new(400, "this is no HTTP request"));
        }
        let Some(end) = self.find_end(input)? else { return Ok(None) };
        let head = input.split_to(end);
        self.looked = 0;
        parse(&head).map(Some)
    }

    /// The end of the first empty line; examines no byte twice.
    fn find_end(&mut self, input: &BytesMut) -> Result<Option<usize>, HttpError> {
        let seen = input.len().min(HTTP_HEAD_BYTES_MAX);
        for at in self.looked..seen {
            if input[at] != b'\n' {
                continue;
            }
            if at == 0 || input[at - 1] != b'\r' {
                return Err(HttpError::new(400, "a line ends in CR LF"));
            }
            if at >= 3 && input[at - 2] == b'\n' {
                return Ok(Some(at + 1));
            }
        }
        self.looked = seen;
        if seen < HTTP_HEAD_BYTES_MAX {
            return Ok(None);
        }
        let within_first_line = !input[..seen].contains(&b'\n');
        let status = if within_first_line { 414 } else { 431 };
        Err(HttpError::new(status, format!("the head of a request is at most {HTTP_HEAD_BYTES_MAX} bytes")))
    }
}

fn parse(bytes: &[u8]) -> Result<RequestHead, HttpError> {
    let mut headers = [httparse::EMPTY_HEADER; HTTP_HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(status) if status.is_complete() => {}
        Ok(_) => return Err(HttpError::new(400, "the head of the request ends early")),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(HttpError::new(431, format!("a request has at most {HTTP_HEADERS_MAX} header fields")));
        }
        Err(httparse::Error::Version) => return Err(HttpError::new(505, "HTTP/1.1 is spoken here")),
        Err(error) => return Err(HttpError::new(400, error.to_string())),
    }
    let is_old = request.version == Some(0);
    let mut head = RequestHead { method: method(request.method), is_old, keeps: !is_old, ..RequestHead::default() };
    let mut length = None;
    let mut encoded = false;
    for field in request.headers.iter() {
        let name = field.name.to_ascii_lowercase();
        match &name[..] {
            "host" => once(&mut head.host, field.value)?,
            "content-length" => once(&mut length, field.value)?,
            "transfer-encoding" => encoded = true,
            "connection" => connection(&mut head, field.value)?,
            "expect" => expect(&mut head, field.value)?,
            "authorization" => once(&mut head.token, field.value)?,
            "origin" => once(&mut head.origin, field.value)?,
            "sec-fetch-site" => once(&mut head.site, field.value)?,
            "accept" => listed(&mut head.accept, field.value),
            "if-match" => once(&mut head.if_match, field.value)?,
            "if-none-match" => once(&mut head.if_none_match, field.value)?,
            _ => {}
        }
    }
    target(&mut head, request.path.unwrap_or_default())?;
    if head.host.is_none() && !is_old {
        return Err(HttpError::new(400, "Host is missing"));
    }
    if encoded && (length.is_some() || is_old) {
        return Err(HttpError::new(400, "a body has one length, and not an encoding too"));
    }
    if encoded {
        return Err(HttpError::new(411, "say how long the body is: Content-Length, and no Transfer-Encoding"));
    }
    head.length = length.as_deref().map_or(Some(0), digits).ok_or_else(|| HttpError::new(400, "Content-Length"))?;
    head.token = head.token.as_deref().and_then(bearer).map(str::to_owned);
    Ok(head)
}

fn method(name: Option<&str>) -> Method {
    match name {
        Some("GET") => Method::Get,
        Some("HEAD") => Method::Head,
        Some("PUT") => Method::Put,
        Some("DELETE") => Method::Delete,
        _ => Method::Other,
    }
}

/// A field that must not be repeated, since two parsers could choose different values.
fn once(field: &mut Option<String>, value: &[u8]) -> Result<(), HttpError> {
    let value = std::str::from_utf8(value).map_err(|_| HttpError::new(400, "a header field that is no text"))?;
    match field.replace(value.trim().to_owned()) {
        None => Ok(()),
        Some(_) => Err(HttpError::new(400, "a header field that may come once came twice")),
    }
}

/// A list field that may be repeated: its values are joined. A value that is not text is ignored.
fn listed(field: &mut Option<String>, value: &[u8]) {
    let Ok(value) = std::str::from_utf8(value) else { return };
    match field {
        Some(list) => list.extend([",", value]),
        None => *field = Some(value.to_owned()),
    }
}

fn connection(head: &mut RequestHead, value: &[u8]) -> Result<(), HttpError> {
    let value = std::str::from_utf8(value).map_err(|_| HttpError::new(400, "Connection is no text"))?;
    for word in value.split(',').map(str::trim) {
        if word.eq_ignore_ascii_case("close") {
            head.keeps = false;
            // Regardless of other words.
            return Ok(());
        }
        if word.eq_ignore_ascii_case("keep-alive") && head.is_old {
            head.keeps = true;
        }
    }
    Ok(())
}

fn expect(head: &mut RequestHead, value: &[u8]) -> Result<(), HttpError> {
    if !value.trim_ascii().eq_ignore_ascii_case(b"100-continue") {
        return Err(HttpError::new(417, "only 100-continue is expected here"));
    }
    head.holds_back = !head.is_old;
    Ok(())
}

/// A path with a query, either alone or after `http://` and a host, which then replaces `Host`.
fn target(head: &mut RequestHead, target: &str) -> Result<(), HttpError> {
    let wrong = || HttpError::new(400, "the target of a request is a path");
    if !target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Err(wrong());
    }
    let path = match target.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case("http://")) {
        Some(_) => {
            let rest = &target[7..];
            let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            head.host = Some(host.to_owned());
            if path.is_empty() { "/" } else { path }
        }
        None => target,
    };
    if !path.starts_with('/') {
        return Err(wrong());
    }
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    path.clone_into(&mut head.path);
    query.clone_into(&mut head.query);
    Ok(())
}

/// The number, if the text consists of digits only.
fn digits(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Percent-decodes a part of a target; `None` if a percent sign is not followed by two hexadecimal digits.
pub fn decoded(part: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    let mut out = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = match (first, behind) {
            (b'%', [high, low, behind @ ..]) => {
                out.push(digit(*high)? << 4 | digit(*low)?);
                behind
            }
            (b'%', _) => return None,
            (byte, behind) => {
                out.push(*byte);
                behind
            }
        };
    }
    Some(out)
}

/// A response.
#[derive(Clone, Debug)]
pub struct Response<'a> {
    /// The status: 200 to 507.
    pub status: u16,
    /// The content type of the body; empty if there is none.
    pub kind: &'a str,
    /// More header fields. None of them contains client input.
    pub fields: &'a [(&'a str, &'a str)],
    /// The body.
    pub body: &'a [u8],
}

/// How a request affects its response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResponseOptions {
    /// Whether the connection stays open.
    pub keeps: bool,
    /// Whether the client must be told that it does.
    pub is_old: bool,
    /// Whether to send the head only.
    pub bodiless: bool,
}

impl ResponseOptions {
    /// For the last response on a connection.
    pub const LAST: ResponseOptions = ResponseOptions { keeps: false, is_old: false, bodiless: false };

    /// For the response to that request.
    pub fn of(head: &RequestHead) -> ResponseOptions {
        ResponseOptions { keeps: head.keeps, is_old: head.is_old, bodiless: head.method == Method::Head }
    }
}

/// Requests the body.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// No response may be cached, interpreted as another content type, or used by a page of another site.
const ALWAYS: &str = "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\
                      Cross-Origin-Resource-Policy: same-origin\r\n";

/// Appends a response.
pub fn put_response(out: &mut BytesMut, response: &Response<'_>, manner: ResponseOptions) {
    let Response { status, kind, fields, body } = response;
    let mut head = Vec::with_capacity(256);
    // Writing to a vector cannot fail.
    let _always = write!(head, "HTTP/1.1 {status} {}\r\n{ALWAYS}", reason(*status));
    for (name, value) in *fields {
        debug_assert!(!value.bytes().any(|byte| byte.is_ascii_control()), "a header field has no control characters");
        let _always = write!(head, "{name}: {value}\r\n");
    }
    if *status != 204 {
        let _always = write!(head, "Content-Type: {kind}\r\nContent-Length: {}\r\n", body.len());
    }
    head.extend_from_slice(match (manner.keeps, manner.is_old) {
        (false, _) => b"Connection: close\r\n\r\n",
        (true, true) => b"Connection: keep-alive\r\n\r\n",
        (true, false) => b"\r\n",
    });
    out.put_slice(&head);
    if *status != 204 && !manner.bodiless {
        out.put_slice(body);
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "Other",
    }
}

#[cfg(test)]
mod tests;
