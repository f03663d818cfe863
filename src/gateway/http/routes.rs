//! Parses the head of an HTTP request into a route: which key or report it concerns, and its parameters.

use super::exposition::ExpositionFormat;
use crate::api::Consistency;
use crate::limits::{ENTRY_BYTES_MAX, KEY_BYTES_MAX};
use crate::machine::commands::{Deadline, Expiration, SetCondition};
use crate::wire::http::{HttpError, Method, RequestHead, percent_decode};

/// What a request asks for, according to its path, method and parameters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Route {
    /// A request that is answered without asking the node.
    Local(LocalRoute),
    /// A request for a report about the node.
    Node(NodeTopic),
    /// Reads the value of a key.
    Get {
        /// The key, decoded from the path; 1 to `KEY_BYTES_MAX` bytes.
        key: Vec<u8>,
        /// Linearizable, unless the parameter `consistency` is `local`.
        consistency: Consistency,
    },
    /// Sets a key to the body.
    Put {
        /// The key, decoded from the path; 1 to `KEY_BYTES_MAX` bytes.
        key: Vec<u8>,
        /// When the key expires, from the parameter `ttl`; never without it.
        expiration: Expiration,
        /// The condition on the key's presence, from `If-Match: *` or `If-None-Match: *`.
        only_if: SetCondition,
    },
    /// Deletes a key.
    Delete {
        /// The key, decoded from the path; 1 to `KEY_BYTES_MAX` bytes.
        key: Vec<u8>,
    },
}

/// A request that is answered without asking the node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LocalRoute {
    /// `/livez`: whether the event loop runs. Any answer means yes.
    Live,
    /// `/version`: the version of the program.
    Version,
    /// `/`: the live page about the node.
    Page,
}

/// A report about the node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NodeTopic {
    /// `/readyz`: whether the node is ready, with the failed checks.
    Ready {
        /// Whether to list the passed checks too.
        verbose: bool,
    },
    /// `/leader`: whether the node leads, and the address of the leader.
    Leader,
    /// `/status.json`: the status of the node as JSON.
    Status,
    /// `/metrics`: the status of the node as metrics in a format.
    Metrics(ExpositionFormat),
}

/// Parses the head of a request.
///
/// # Errors
///
/// The status code and the reason. With status 405, the reason is the list of allowed methods.
pub fn parse_route(head: &RequestHead) -> Result<Route, HttpError> {
    let route = match head.path.strip_prefix("/kv/") {
        Some(key) => parse_key_route(head, key)?,
        None => parse_node_route(head)?,
    };
    let body_bytes_max = if matches!(route, Route::Put { .. }) { ENTRY_BYTES_MAX } else { 0 };
    match head.content_length {
        length if length <= body_bytes_max => Ok(route),
        _ if body_bytes_max == 0 => Err(HttpError::new(400, "no body belongs to this request")),
        length => Err(HttpError::new(413, format!("a value is at most {body_bytes_max} bytes, not {length}"))),
    }
}

fn parse_node_route(head: &RequestHead) -> Result<Route, HttpError> {
    let route = match &head.path[..] {
        "/" => Route::Local(LocalRoute::Page),
        "/livez" => Route::Local(LocalRoute::Live),
        "/readyz" => Route::Node(NodeTopic::Ready { verbose: matches!(&head.query[..], "verbose" | "verbose=") }),
        "/leader" => Route::Node(NodeTopic::Leader),
        "/metrics" => Route::Node(NodeTopic::Metrics(ExpositionFormat::negotiate(head.accept.as_deref()))),
        "/status.json" => Route::Node(NodeTopic::Status),
        "/version" => Route::Local(LocalRoute::Version),
        _ => return Err(HttpError::new(404, "there is nothing of that name")),
    };
    if !matches!(head.method, Method::Get | Method::Head) {
        return Err(HttpError::new(405, "GET, HEAD"));
    }
    Ok(route)
}

fn parse_key_route(head: &RequestHead, key: &str) -> Result<Route, HttpError> {
    let key = percent_decode(key).ok_or_else(|| HttpError::new(400, "in a key, % is followed by two digits"))?;
    if key.is_empty() {
        return Err(HttpError::new(400, "a key has at least one byte"));
    }
    if key.len() > KEY_BYTES_MAX {
        return Err(HttpError::new(414, format!("a key is at most {KEY_BYTES_MAX} bytes")));
    }
    let mut parameters = parse_parameters(&head.query)?;
    let mut take_parameter =
        |name: &str| parameters.iter().position(|(known, _)| known == name).map(|at| parameters.remove(at).1);
    let route = match head.method {
        Method::Get | Method::Head => {
            Route::Get { key, consistency: parse_consistency(take_parameter("consistency"))? }
        }
        Method::Put => {
            Route::Put { key, expiration: parse_ttl(take_parameter("ttl"))?, only_if: parse_condition(head)? }
        }
        Method::Delete => Route::Delete { key },
        Method::Other => return Err(HttpError::new(405, "GET, HEAD, PUT, DELETE")),
    };
    // An unknown parameter is rejected, not ignored: the client may rely on its effect.
    if let Some((unknown, _)) = parameters.first() {
        return Err(HttpError::new(400, format!("no parameter {unknown:?} belongs to this request")));
    }
    let has_condition = head.if_match.is_some() || head.if_none_match.is_some();
    if has_condition && !matches!(route, Route::Put { .. }) {
        return Err(HttpError::new(400, "only a PUT may depend on whether the key is there"));
    }
    Ok(route)
}

fn parse_parameters(query: &str) -> Result<Vec<(String, String)>, HttpError> {
    let decode_text = |part: &str| percent_decode(part).and_then(|bytes| String::from_utf8(bytes).ok());
    let parse_pair = |part: &str| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        decode_text(name).zip(decode_text(value)).ok_or_else(|| HttpError::new(400, "a parameter that cannot be read"))
    };
    query.split('&').filter(|part| !part.is_empty()).map(parse_pair).collect()
}

fn parse_consistency(value: Option<String>) -> Result<Consistency, HttpError> {
    match value.as_deref() {
        None | Some("linearizable") => Ok(Consistency::Linearizable),
        Some("local") => Ok(Consistency::Local),
        Some(_) => Err(HttpError::new(400, "consistency is linearizable or local")),
    }
}

fn parse_ttl(ttl: Option<String>) -> Result<Expiration, HttpError> {
    let Some(ttl) = ttl else { return Ok(Expiration::Endless) };
    let ttl_ms = humantime::parse_duration(&ttl).ok().and_then(|ttl| u64::try_from(ttl.as_millis()).ok());
    match ttl_ms {
        Some(ms @ 1..) => Ok(Expiration::Until(Deadline::InMs(ms))),
        _ => Err(HttpError::new(400, "ttl is a duration of a millisecond at least, as 10s")),
    }
}

fn parse_condition(head: &RequestHead) -> Result<SetCondition, HttpError> {
    match (head.if_match.as_deref(), head.if_none_match.as_deref()) {
        (None, None) => Ok(SetCondition::Always),
        (Some("*"), None) => Ok(SetCondition::Present),
        (None, Some("*")) => Ok(SetCondition::Absent),
        _ => Err(HttpError::new(400, "If-Match or If-None-Match is *: values have no tags")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(method: Method, target: &str) -> RequestHead {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        RequestHead { method, path: path.into(), query: query.into(), ..RequestHead::default() }
    }

    fn parse(method: Method, target: &str) -> Result<Route, u16> {
        parse_route(&head(method, target)).map_err(|wrong| wrong.status)
    }

    #[test]
    fn key_requests_are_parsed() {
        let key = || b"a/b c".to_vec();
        let get = |consistency| Ok(Route::Get { key: key(), consistency });
        assert_eq!(parse(Method::Get, "/kv/a/b%20c"), get(Consistency::Linearizable));
        assert_eq!(parse(Method::Head, "/kv/a/b%20c?consistency=local"), get(Consistency::Local));
        let put = |expiration| Ok(Route::Put { key: key(), expiration, only_if: SetCondition::Always });
        assert_eq!(parse(Method::Put, "/kv/a/b%20c"), put(Expiration::Endless));
        assert_eq!(parse(Method::Put, "/kv/a/b%20c?ttl=1m%2030s"), put(Expiration::Until(Deadline::InMs(90_000))));
        assert_eq!(parse(Method::Delete, "/kv/a/b%20c"), Ok(Route::Delete { key: key() }));
    }

    #[test]
    fn put_can_require_key_presence_or_absence() {
        let star = || Some("*".to_owned());
        let put = |if_match, if_none_match| {
            let head = RequestHead { if_match, if_none_match, ..head(Method::Put, "/kv/k") };
            parse_route(&head).map_err(|wrong| wrong.status)
        };
        let put_if = |only_if| Ok(Route::Put { key: b"k".to_vec(), expiration: Expiration::Endless, only_if });
        assert_eq!(put(star(), None), put_if(SetCondition::Present));
        assert_eq!(put(None, star()), put_if(SetCondition::Absent));
        assert_eq!(put(star(), star()), Err(400));
        assert_eq!(put(Some("\"tag\"".into()), None), Err(400));
        assert_eq!(
            parse_route(&RequestHead { if_match: star(), ..head(Method::Delete, "/kv/k") }).unwrap_err().status,
            400
        );
    }

    #[test]
    fn invalid_requests_are_rejected() {
        for (method, target, status) in [
            (Method::Get, "/kv", 404),
            (Method::Get, "/kv/", 400),
            (Method::Get, "/kv/%zz", 400),
            (Method::Get, "/kv/k?ttl=1s", 400),
            (Method::Get, "/kv/k?consistency=none", 400),
            (Method::Put, "/kv/k?ttl=1", 400),
            (Method::Put, "/kv/k?ttl=0s", 400),
            (Method::Put, "/kv/k?ttl=1s&ttl=2s", 400),
            (Method::Put, "/kv/k?%=1", 400),
            (Method::Delete, "/kv/k?force", 400),
            (Method::Other, "/kv/k", 405),
            (Method::Put, "/status.json", 405),
            (Method::Get, "/nothing", 404),
        ] {
            assert_eq!(parse(method, target), Err(status), "{method:?} {target}");
        }
        let with_length = |method, content_length| {
            parse_route(&RequestHead { content_length, ..head(method, "/kv/k") }).map_err(|wrong| wrong.status)
        };
        assert!(with_length(Method::Put, ENTRY_BYTES_MAX).is_ok());
        assert_eq!(with_length(Method::Put, ENTRY_BYTES_MAX + 1), Err(413));
        assert_eq!(with_length(Method::Put, u64::MAX), Err(413));
        assert_eq!(with_length(Method::Get, 1), Err(400));
    }

    #[test]
    fn path_selects_the_report_about_the_node() {
        for (target, route) in [
            ("/", Route::Local(LocalRoute::Page)),
            ("/livez", Route::Local(LocalRoute::Live)),
            ("/readyz", Route::Node(NodeTopic::Ready { verbose: false })),
            ("/readyz?verbose", Route::Node(NodeTopic::Ready { verbose: true })),
            ("/leader", Route::Node(NodeTopic::Leader)),
            ("/metrics", Route::Node(NodeTopic::Metrics(ExpositionFormat::Plain))),
            ("/status.json?whatever", Route::Node(NodeTopic::Status)),
            ("/version", Route::Local(LocalRoute::Version)),
        ] {
            assert_eq!(parse(Method::Get, target), Ok(route), "{target}");
        }
    }
}
