//! Tests that a request is parsed the same however the input is split, and that invalid input is rejected with a
//! status.

use super::*;
use proptest::prelude::*;

fn read(text: &[u8]) -> Result<Option<RequestHead>, HttpError> {
    RequestHeadReader::default().next(&mut BytesMut::from(text))
}

fn rejection_status(text: &str) -> u16 {
    match read(text.as_bytes()) {
        Err(error) => error.status,
        Ok(head) => panic!("{text:?} is parsed as {head:?}"),
    }
}

fn head(text: &str) -> RequestHead {
    read(text.as_bytes()).unwrap().unwrap()
}

#[test]
fn request_head_is_parsed_and_body_stays_in_input() {
    let mut input = BytesMut::from(
        "\r\nPUT /kv/a%20b?ttl=1s HTTP/1.1\r\nhost: h:1\r\nContent-Length: 3\r\nAuthorization: bearer s\r\n\
         Expect: 100-Continue\r\nOrigin: http://h:1\r\nSec-Fetch-Site: same-origin\r\nIf-None-Match: *\r\n\
         Accept: text/plain;q=0.5\r\nAccept: application/openmetrics-text\r\n\r\nabcGET",
    );
    let head = RequestHeadReader::default().next(&mut input).unwrap().unwrap();
    let some_text = |text: &str| Some(text.to_owned());
    let expected = RequestHead {
        method: Method::Put,
        path: "/kv/a%20b".into(),
        query: "ttl=1s".into(),
        host: some_text("h:1"),
        content_length: 3,
        keep_alive: true,
        is_http_1_0: false,
        expects_continue: true,
        bearer_token: some_text("s"),
        origin: some_text("http://h:1"),
        fetch_site: some_text("same-origin"),
        accept: Some("text/plain;q=0.5,application/openmetrics-text".into()),
        if_match: None,
        if_none_match: some_text("*"),
    };
    assert_eq!((head, &input[..]), (expected, &b"abcGET"[..]));
}

#[test]
fn keep_alive_follows_version_and_connection_header() {
    let keep_alive =
        |version: &str, fields: &str| head(&format!("GET / HTTP/{version}\r\nHost: h\r\n{fields}\r\n")).keep_alive;
    assert!(keep_alive("1.1", "") && !keep_alive("1.1", "Connection: TE, close\r\n"));
    assert!(!keep_alive("1.0", "") && keep_alive("1.0", "Connection: Keep-Alive\r\n"));
    assert!(!keep_alive("1.0", "Connection: close, keep-alive\r\n"));
}

#[test]
fn absolute_target_overrides_host_header() {
    let request_head = head("GET HTTP://other:7/a?b HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(
        (request_head.path, request_head.query, request_head.host),
        ("/a".into(), "b".into(), Some("other:7".into()))
    );
    assert_eq!(head("GET http://other HTTP/1.0\r\n\r\n").path, "/");
}

#[test]
fn ambiguous_request_is_rejected() {
    for (fields, status) in [
        ("Content-Length: 1\r\nContent-Length: 1\r\n", 400),
        ("Content-Length: 1\r\nContent-Length: 2\r\n", 400),
        ("Content-Length: 1, 1\r\n", 400),
        ("Content-Length: +1\r\n", 400),
        ("Content-Length: 0x1\r\n", 400),
        ("Content-Length: -1\r\n", 400),
        ("Content-Length:\r\n", 400),
        ("Content-Length: 99999999999999999999\r\n", 400),
        ("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", 400),
        ("Transfer-Encoding: chunked\r\nContent-Length: 1\r\n", 400),
        ("Transfer-Encoding: chunked\r\n", 411),
        ("Transfer-Encoding: xchunked\r\n", 411),
        ("transfer-encoding : chunked\r\n", 400),
        ("Content-Length : 1\r\n", 400),
        (" Content-Length: 1\r\n", 400),
        ("X: a\r\n folded\r\n", 400),
        ("X: a\nContent-Length: 1\r\n", 400),
        ("X: a\rContent-Length: 1\r\n", 400),
        ("X: a\0\r\n", 400),
        ("Host: other\r\n", 400),
        ("Origin: a\r\nOrigin: b\r\n", 400),
        ("Expect: wonders\r\n", 417),
    ] {
        assert_eq!(rejection_status(&format!("PUT / HTTP/1.1\r\nHost: h\r\n{fields}\r\n")), status, "{fields:?}");
    }
    assert_eq!(rejection_status("PUT / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), 400);
}

#[test]
fn invalid_request_is_rejected() {
    for (text, status) in [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET /\r\n\r\n", 400),
        ("GET / HTTP/2.0\r\n\r\n", 505),
        ("PRI * HTTP/2.0\r\n\r\n", 505),
        ("GET  / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET /a b HTTP/1.1\r\nHost: h\r\n\r\n", 505),
        ("GET /ä HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET /a#b HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET a HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET / HTTP/1.1\n", 400),
        ("\x16\x03\x01", 400),
        ("*1\r\n", 400),
        ("\n", 400),
    ] {
        assert_eq!(rejection_status(text), status, "{text:?}");
    }
}

#[test]
fn request_head_size_is_bounded() {
    let long_text = "x".repeat(HTTP_HEAD_BYTES_MAX);
    assert_eq!(rejection_status(&format!("GET /{long_text}")), 414);
    assert_eq!(rejection_status(&format!("GET / HTTP/1.1\r\nX: {long_text}")), 431);
    let fields = "X: y\r\n".repeat(HTTP_HEADERS_MAX);
    assert_eq!(rejection_status(&format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n")), 431);
    let value_bytes_max = HTTP_HEAD_BYTES_MAX - "GET / HTTP/1.1\r\nHost: h\r\nX: \r\n\r\n".len();
    head(&format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "x".repeat(value_bytes_max)));
    assert_eq!(
        rejection_status(&format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "x".repeat(value_bytes_max + 1))),
        431
    );
}

#[test]
fn target_is_percent_decoded_once_or_rejected() {
    assert_eq!(percent_decode("a%2Fb%25%00+c"), Some(b"a/b%\0+c".to_vec()));
    for invalid in ["%", "%1", "%1g", "a%+1", "%%41"] {
        assert_eq!(percent_decode(invalid), None, "{invalid}");
    }
}

#[test]
fn response_states_length_and_keep_alive() {
    let encode = |status, body: &[u8], options| {
        let mut out = BytesMut::new();
        let response = Response { status, content_type: "text/plain", fields: &[("Allow", "GET")], body };
        put_response(&mut out, &response, options);
        String::from_utf8(out.to_vec()).unwrap().replace(COMMON_FIELDS, "")
    };
    let keep_alive = ResponseOptions { keep_alive: true, ..ResponseOptions::CLOSING };
    let ok_head = "HTTP/1.1 200 OK\r\nAllow: GET\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n";
    assert_eq!(encode(200, b"ab", keep_alive), format!("{ok_head}\r\nab"));
    assert_eq!(encode(200, b"ab", ResponseOptions::CLOSING), format!("{ok_head}Connection: close\r\n\r\nab"));
    assert_eq!(encode(200, b"ab", ResponseOptions { head_only: true, ..keep_alive }), format!("{ok_head}\r\n"));
    assert_eq!(
        encode(200, b"ab", ResponseOptions { is_http_1_0: true, ..keep_alive }),
        format!("{ok_head}Connection: keep-alive\r\n\r\nab")
    );
    assert_eq!(encode(204, b"", keep_alive), "HTTP/1.1 204 No Content\r\nAllow: GET\r\n\r\n");
}

fn request_text() -> impl Strategy<Value = String> {
    let request_line = ("(GET|PUT|DELETE|HEAD|POST|G\\?T|)", "/[a-z%?/#é]{0,9}", "HTTP/(1.0|1.1|2.0|1)");
    let header_field = (
        prop::sample::select(vec!["Host", "Content-Length", "Transfer-Encoding", "Connection", "X-Y", " Z", ""]),
        "[ -~]{0,8}|[0-9]{1,3}|chunked|close",
    );
    (
        request_line,
        prop::collection::vec(header_field, 0..5),
        prop::sample::select(vec!["\r\n", "\r\n\r\n", "\n\n", ""]),
    )
        .prop_map(|((method, path, version), fields, end)| {
            let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            format!("{method} {path} {version}\r\n{fields}{end}")
        })
}

proptest! {
    #[test]
    fn request_split_anywhere_parses_the_same(text in request_text(), cuts in prop::collection::vec(0usize..90, 0..9)) {
        let unsplit_result = read(text.as_bytes());
        let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut < text.len()).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let (mut reader, mut input, mut result) = (RequestHeadReader::default(), BytesMut::new(), Ok(None));
        for pair in cuts.windows(2) {
            if !matches!(result, Ok(None)) {
                break;
            }
            input.extend_from_slice(&text.as_bytes()[pair[0]..pair[1]]);
            result = reader.next(&mut input);
        }
        // Which of two errors is found may depend on which bytes have arrived.
        prop_assert_eq!(result.map_err(|error| error.status / 100), unsplit_result.map_err(|error| error.status / 100));
    }

    #[test]
    fn parsing_any_input_terminates(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut input = BytesMut::from(&bytes[..]);
        let mut reader = RequestHeadReader::default();
        let mut bytes_left = input.len();
        while let Ok(Some(_)) = reader.next(&mut input) {
            prop_assert!(input.len() < bytes_left, "the parsed bytes are removed from the input");
            bytes_left = input.len();
        }
    }
}
