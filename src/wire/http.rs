//! HTTP for the gateway: parses request heads, and writes responses.
//!
//! The parser accepts HTTP/1.1 and 1.0, and only requests that no two parsers can interpret differently (against
//! request smuggling): each line ends in CRLF, and a body has one length, given once and in digits. It rejects any
//! other request with a status, and reads nothing after it. Every received byte is examined once, however the input is
//! split. No memory is reserved for an announced length before the bytes arrive.

use crate::limits::{HTTP_HEAD_BYTES_MAX, HTTP_HEADERS_MAX};
use bytes::{BufMut, BytesMut};
use std::borrow::Cow;
use std::io::Write;

/// An invalid request, with the response status. Nothing was executed, and the connection is unusable afterwards.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{status}: {why}")]
pub struct HttpError {
    /// The status code of the response: 400 to 505.
    pub status: u16,
    /// The reason in a few words, which the response shows to the client.
    pub why: Cow<'static, str>,
}

impl HttpError {
    /// An error whose response has the status `status`, and `why` as its text.
    pub fn new(status: u16, why: impl Into<Cow<'static, str>>) -> HttpError {
        HttpError { status, why: why.into() }
    }
}

/// The method of a request, as far as the gateway distinguishes methods.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Method {
    /// `GET`: reads the resource.
    #[default]
    Get,
    /// `HEAD`: like `GET`, and the response has no body.
    Head,
    /// `PUT`: sets the resource.
    Put,
    /// `DELETE`: deletes the resource.
    Delete,
    /// Any other method, such as `POST`: the gateway answers it with 405.
    Other,
}

/// The head of a request: the parts that the gateway uses.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RequestHead {
    /// The method, which may be [`Method::Other`].
    pub method: Method,
    /// The path: begins with a slash; still percent-encoded.
    pub path: String,
    /// The query after the question mark; still percent-encoded.
    pub query: String,
    /// The host that the client addressed: `host` or `host:port`. Always present, except in HTTP/1.0.
    pub host: Option<String>,
    /// The length of the body in bytes, from `Content-Length`; 0 without one.
    pub content_length: u64,
    /// Whether the connection stays open after the response.
    pub keep_alive: bool,
    /// Whether the client uses HTTP/1.0. A connection then stays open only if request and response both have
    /// `Connection: keep-alive`.
    pub is_http_1_0: bool,
    /// Whether the client sends the body only after a `100 Continue` response (`Expect: 100-continue`).
    pub expects_continue: bool,
    /// The password in `Authorization: Bearer …`; `None` without one, or with another scheme.
    pub bearer_token: Option<String>,
    /// `Origin`: the site whose page made the browser send the request.
    pub origin: Option<String>,
    /// `Sec-Fetch-Site`: the relation of the origin site to this gateway, according to the browser.
    pub fetch_site: Option<String>,
    /// `Accept`: the media types that the client accepts; several fields are joined by commas.
    pub accept: Option<String>,
    /// `If-Match`, not interpreted: `*` requires that the key is present.
    pub if_match: Option<String>,
    /// `If-None-Match`, not interpreted: `*` requires that the key is absent.
    pub if_none_match: Option<String>,
}

/// Reads request heads from bytes as they arrive.
///
/// Invariant: the bytes up to `scanned_upto` contain no end of a head, and no line feed without CR.
#[derive(Clone, Debug, Default)]
pub struct RequestHeadReader {
    scanned_upto: usize,
}

impl RequestHeadReader {
    /// Reads the next request head, and removes it from the input; `None` if more bytes are needed.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<RequestHead>, HttpError> {
        // Some clients send an extra empty line after a body.
        while input.starts_with(b"\r\n") {
            let _an_empty_line = input.split_to(2);
            self.scanned_upto = 0;
        }
        // Input that does not begin with a letter, such as a TLS handshake, is never a request: the error is immediate.
        if input.first().is_some_and(|first| !first.is_ascii_alphabetic() && *first != b'\r') {
            return Err(HttpError::new(400, "this is no HTTP request"));
        }
        let Some(end) = self.find_end(input)? else { return Ok(None) };
        let head = input.split_to(end);
        self.scanned_upto = 0;
        parse_head(&head).map(Some)
    }

    /// Finds the end of the head: the end of its first empty line. Examines no byte twice.
    fn find_end(&mut self, input: &BytesMut) -> Result<Option<usize>, HttpError> {
        let end = input.len().min(HTTP_HEAD_BYTES_MAX);
        for at in self.scanned_upto..end {
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
        self.scanned_upto = end;
        if end < HTTP_HEAD_BYTES_MAX {
            return Ok(None);
        }
        let within_first_line = !input[..end].contains(&b'\n');
        let status = if within_first_line { 414 } else { 431 };
        Err(HttpError::new(status, format!("the head of a request is at most {HTTP_HEAD_BYTES_MAX} bytes")))
    }
}

fn parse_head(bytes: &[u8]) -> Result<RequestHead, HttpError> {
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
    let is_http_1_0 = request.version == Some(0);
    let mut head = RequestHead {
        method: parse_method(request.method),
        is_http_1_0,
        keep_alive: !is_http_1_0,
        ..RequestHead::default()
    };
    let mut length = None;
    let mut has_transfer_encoding = false;
    for field in request.headers.iter() {
        let name = field.name.to_ascii_lowercase();
        match &name[..] {
            "host" => set_once(&mut head.host, field.value)?,
            "content-length" => set_once(&mut length, field.value)?,
            "transfer-encoding" => has_transfer_encoding = true,
            "connection" => read_connection_field(&mut head, field.value)?,
            "expect" => read_expect_field(&mut head, field.value)?,
            "authorization" => set_once(&mut head.bearer_token, field.value)?,
            "origin" => set_once(&mut head.origin, field.value)?,
            "sec-fetch-site" => set_once(&mut head.fetch_site, field.value)?,
            "accept" => append_to_list(&mut head.accept, field.value),
            "if-match" => set_once(&mut head.if_match, field.value)?,
            "if-none-match" => set_once(&mut head.if_none_match, field.value)?,
            _ => {}
        }
    }
    read_target(&mut head, request.path.unwrap_or_default())?;
    if head.host.is_none() && !is_http_1_0 {
        return Err(HttpError::new(400, "Host is missing"));
    }
    if has_transfer_encoding && (length.is_some() || is_http_1_0) {
        return Err(HttpError::new(400, "a body has one length, and not an encoding too"));
    }
    if has_transfer_encoding {
        return Err(HttpError::new(411, "say how long the body is: Content-Length, and no Transfer-Encoding"));
    }
    head.content_length =
        length.as_deref().map_or(Some(0), parse_digits).ok_or_else(|| HttpError::new(400, "Content-Length"))?;
    head.bearer_token = head.bearer_token.as_deref().and_then(parse_bearer_token).map(str::to_owned);
    Ok(head)
}

fn parse_method(name: Option<&str>) -> Method {
    match name {
        Some("GET") => Method::Get,
        Some("HEAD") => Method::Head,
        Some("PUT") => Method::Put,
        Some("DELETE") => Method::Delete,
        _ => Method::Other,
    }
}

/// Sets a field that must not be repeated, since two parsers could choose different values.
fn set_once(field: &mut Option<String>, value: &[u8]) -> Result<(), HttpError> {
    let value = std::str::from_utf8(value).map_err(|_| HttpError::new(400, "a header field that is no text"))?;
    match field.replace(value.trim().to_owned()) {
        None => Ok(()),
        Some(_) => Err(HttpError::new(400, "a header field that may come once came twice")),
    }
}

/// Appends to a list field, which may be repeated: its values are joined. A value that is not text is ignored.
fn append_to_list(field: &mut Option<String>, value: &[u8]) {
    let Ok(value) = std::str::from_utf8(value) else { return };
    match field {
        Some(list) => list.extend([",", value]),
        None => *field = Some(value.to_owned()),
    }
}

fn read_connection_field(head: &mut RequestHead, value: &[u8]) -> Result<(), HttpError> {
    let value = std::str::from_utf8(value).map_err(|_| HttpError::new(400, "Connection is no text"))?;
    for word in value.split(',').map(str::trim) {
        if word.eq_ignore_ascii_case("close") {
            head.keep_alive = false;
            // `close` takes effect even if the header field has `keep-alive` too.
            return Ok(());
        }
        if word.eq_ignore_ascii_case("keep-alive") && head.is_http_1_0 {
            head.keep_alive = true;
        }
    }
    Ok(())
}

fn read_expect_field(head: &mut RequestHead, value: &[u8]) -> Result<(), HttpError> {
    if !value.trim_ascii().eq_ignore_ascii_case(b"100-continue") {
        return Err(HttpError::new(417, "only 100-continue is expected here"));
    }
    head.expects_continue = !head.is_http_1_0;
    Ok(())
}

/// Reads path and query from the request target. The target may begin with `http://` and a host, which then replaces
/// `Host`.
fn read_target(head: &mut RequestHead, target: &str) -> Result<(), HttpError> {
    let invalid_target = || HttpError::new(400, "the target of a request is a path");
    if !target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Err(invalid_target());
    }
    let path = match target.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case("http://")) {
        Some(_) => {
            let after_scheme = &target[7..];
            let (host, path) = after_scheme.split_at(after_scheme.find('/').unwrap_or(after_scheme.len()));
            head.host = Some(host.to_owned());
            if path.is_empty() { "/" } else { path }
        }
        None => target,
    };
    if !path.starts_with('/') {
        return Err(invalid_target());
    }
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    path.clone_into(&mut head.path);
    query.clone_into(&mut head.query);
    Ok(())
}

/// Parses a number without sign or spaces, unlike `str::parse`; `None` if the text has anything but digits.
fn parse_digits(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

fn parse_bearer_token(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Percent-decodes a part of a target; `None` if a percent sign is not followed by two hexadecimal digits.
pub fn percent_decode(part: &str) -> Option<Vec<u8>> {
    let hex_digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    let mut out = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = match (first, tail) {
            (b'%', [high, low, tail @ ..]) => {
                out.push(hex_digit(*high)? << 4 | hex_digit(*low)?);
                tail
            }
            (b'%', _) => return None,
            (byte, tail) => {
                out.push(*byte);
                tail
            }
        };
    }
    Some(out)
}

/// The parts of a response that depend on the request; [`put_response`] adds the remaining header fields.
#[derive(Clone, Debug)]
pub struct Response<'a> {
    /// The status code: 200 to 507.
    pub status: u16,
    /// The content type of the body; empty if there is none.
    pub content_type: &'a str,
    /// Further header fields, by name and value. None of them contains client input.
    pub fields: &'a [(&'a str, &'a str)],
    /// The body; empty with the status 204.
    pub body: &'a [u8],
}

/// The properties of a response that follow from its request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResponseOptions {
    /// Whether the connection stays open after the response.
    pub keep_alive: bool,
    /// Whether the client uses HTTP/1.0. The response then has `Connection: keep-alive` if the connection stays open.
    pub is_http_1_0: bool,
    /// Whether to send the head without the body, as for `HEAD`.
    pub head_only: bool,
}

impl ResponseOptions {
    /// The options of the last response on a connection, after which it closes.
    pub const CLOSING: ResponseOptions = ResponseOptions { keep_alive: false, is_http_1_0: false, head_only: false };

    /// The options of the response to the request with the head `head`.
    pub fn of(head: &RequestHead) -> ResponseOptions {
        ResponseOptions {
            keep_alive: head.keep_alive,
            is_http_1_0: head.is_http_1_0,
            head_only: head.method == Method::Head,
        }
    }
}

/// The interim response that requests the body from a client that waits for it.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The header fields of every response, so that none is cached, interpreted as another content type, or used by a page
/// of another site.
const COMMON_FIELDS: &str = "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\
                      Cross-Origin-Resource-Policy: same-origin\r\n";

/// Appends a response: its head with the common header fields, and its body unless `options` or the status 204 omit it.
pub fn put_response(out: &mut BytesMut, response: &Response<'_>, options: ResponseOptions) {
    let Response { status, content_type, fields, body } = response;
    let mut head = Vec::with_capacity(256);
    // Writing to a vector cannot fail, so the results are ignored.
    let _infallible = write!(head, "HTTP/1.1 {status} {}\r\n{COMMON_FIELDS}", reason_phrase(*status));
    for (name, value) in *fields {
        debug_assert!(!value.bytes().any(|byte| byte.is_ascii_control()), "a header field has no control characters");
        let _infallible = write!(head, "{name}: {value}\r\n");
    }
    if *status != 204 {
        let _infallible = write!(head, "Content-Type: {content_type}\r\nContent-Length: {}\r\n", body.len());
    }
    head.extend_from_slice(match (options.keep_alive, options.is_http_1_0) {
        (false, _) => b"Connection: close\r\n\r\n",
        (true, true) => b"Connection: keep-alive\r\n\r\n",
        (true, false) => b"\r\n",
    });
    out.put_slice(&head);
    if *status != 204 && !options.head_only {
        out.put_slice(body);
    }
}

fn reason_phrase(status: u16) -> &'static str {
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
