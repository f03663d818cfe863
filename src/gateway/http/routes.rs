//! Parses HTTP requests into routes.

use super::exposition::ExpositionFormat;
use crate::api::Consistency;
use crate::limits::{ENTRY_BYTES_MAX, KEY_BYTES_MAX};
use crate::machine::commands::{Deadline, Expiration, SetCondition};
use crate::wire::http::{HttpError, Method, RequestHead, decoded};

/// A parsed request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Route {
    /// A request that needs no answer from the node.
    Known(LocalRoute),
    /// A request about the node.
    Node(NodeTopic),
    /// Reads the value of a key.
    Get {
        /// The key.
        key: Vec<u8>,
        /// The consistency of the read.
        consistency: Consistency,
    },
    /// Sets a key to the body.
    Put {
        /// The key.
        key: Vec<u8>,
        /// When the key expires.
        life: Expiration,
        /// The condition on the key's presence.
        only_if: SetCondition,
    },
    /// Deletes a key.
    Delete {
        /// The key.
        key: Vec<u8>,
    },
}

/// A request that needs no answer from the node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LocalRoute {
    /// Whether the event loop runs.
    Live,
    /// The version of the program.
    Version,
    /// The live page about the node.
    Page,
}

/// A request about the node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NodeTopic {
    /// Whether the node is ready, with a report on the failed checks.
    Ready {
        /// Whether to report the passed checks too.
        verbose: bool,
    },
    /// Whether the node leads.
    Leader,
    /// The status as JSON.
    Status,
    /// The status as metrics, in that format.
    Metrics(ExpositionFormat),
}

/// Parses a request. The reason of an error with status 405 is the list of allowed methods.
pub fn parse_route(head: &RequestHead) -> Result<Route, HttpError> {
    let ask = match head.path.strip_prefix("/kv/") {
        Some(key) => key_asked(head, key)?,
        None => plain(head)?,
    };
    let most = if matches!(ask, Route::Put { .. }) { ENTRY_BYTES_MAX } else { 0 };
    match head.length {
        length if length <= most => Ok(ask),
        _ if most == 0 => Err(HttpError::new(400, "no body belongs to this request")),
        length => Err(HttpError::new(413, format!("a value is at most {most} bytes, not {length}"))),
    }
}

fn plain(head: &RequestHead) -> Result<Route, HttpError> {
    let ask = match &head.path[..] {
        "/" => Route::Known(LocalRoute::Page),
        "/livez" => Route::Known(LocalRoute::Live),
        "/readyz" => Route::Node(NodeTopic::Ready { verbose: matches!(&head.query[..], "verbose" | "verbose=") }),
        "/leader" => Route::Node(NodeTopic::Leader),
        "/metrics" => Route::Node(NodeTopic::Metrics(ExpositionFormat::of(head.accept.as_deref()))),
        "/status.json" => Route::Node(NodeTopic::Status),
        "/version" => Route::Known(LocalRoute::Version),
        _ => return Err(HttpError::new(404, "there is nothing of that name")),
    };
    if !matches!(head.method, Method::Get | Method::Head) {
        return Err(HttpError::new(405, "GET, HEAD"));
    }
    Ok(ask)
}

fn key_asked(head: &RequestHead, key: &str) -> Result<Route, HttpError> {
    let key = decoded(key).ok_or_else(|| HttpError::new(400, "in a key, % is followed by two digits"))?;
    if key.is_empty() {
        return Err(HttpError::new(400, "a key has at least one byte"));
    }
    if key.len() > KEY_BYTES_MAX {
        return Err(HttpError::new(414, format!("a key is at most {KEY_BYTES_MAX} bytes")));
    }
    let mut parameters = parameters(&head.query)?;
    let mut take =
        |name: &str| parameters.iter().position(|(known, _)| known == name).map(|at| parameters.remove(at).1);
    let ask = match head.method {
        Method::Get | Method::Head => Route::Get { key, consistency: consistency(take("consistency"))? },
        Method::Put => Route::Put { key, life: life(take("ttl"))?, only_if: presence(head)? },
        Method::Delete => Route::Delete { key },
        Method::Other => return Err(HttpError::new(405, "GET, HEAD, PUT, DELETE")),
    };
    // An unknown parameter is an error and is not ignored: it may be essential.
    if let Some((unknown, _)) = parameters.first() {
        return Err(HttpError::new(400, format!("no parameter {unknown:?} belongs to this request")));
    }
    let conditions = head.if_match.is_some() || head.if_none_match.is_some();
    if conditions && !matches!(ask, Route::Put { .. }) {
        return Err(HttpError::new(400, "only a PUT may depend on whether the key is there"));
    }
    Ok(ask)
}

fn parameters(query: &str) -> Result<Vec<(String, String)>, HttpError> {
    let text = |part: &str| decoded(part).and_then(|bytes| String::from_utf8(bytes).ok());
    let pair = |part: &str| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        text(name).zip(text(value)).ok_or_else(|| HttpError::new(400, "a parameter that cannot be read"))
    };
    query.split('&').filter(|part| !part.is_empty()).map(pair).collect()
}

fn consistency(value: Option<String>) -> Result<Consistency, HttpError> {
    match value.as_deref() {
        None | Some("linearizable") => Ok(Consistency::Linearizable),
        Some("local") => Ok(Consistency::Local),
        Some(_) => Err(HttpError::new(400, "consistency is linearizable or local")),
    }
}

fn life(ttl: Option<String>) -> Result<Expiration, HttpError> {
    let Some(ttl) = ttl else { return Ok(Expiration::Endless) };
    let ms = humantime::parse_duration(&ttl).ok().and_then(|ttl| u64::try_from(ttl.as_millis()).ok());
    match ms {
        Some(ms @ 1..) => Ok(Expiration::Until(Deadline::In(ms))),
        _ => Err(HttpError::new(400, "ttl is a duration of a millisecond at least, as 10s")),
    }
}

fn presence(head: &RequestHead) -> Result<SetCondition, HttpError> {
    match (head.if_match.as_deref(), head.if_none_match.as_deref()) {
        (None, None) => Ok(SetCondition::Either),
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
        let put = |life| Ok(Route::Put { key: key(), life, only_if: SetCondition::Either });
        assert_eq!(parse(Method::Put, "/kv/a/b%20c"), put(Expiration::Endless));
        assert_eq!(parse(Method::Put, "/kv/a/b%20c?ttl=1m%2030s"), put(Expiration::Until(Deadline::In(90_000))));
        assert_eq!(parse(Method::Delete, "/kv/a/b%20c"), Ok(Route::Delete { key: key() }));
    }

    #[test]
    fn put_can_require_key_presence_or_absence() {
        let star = || Some("*".to_owned());
        let put = |if_match, if_none_match| {
            let head = RequestHead { if_match, if_none_match, ..head(Method::Put, "/kv/k") };
            parse_route(&head).map_err(|wrong| wrong.status)
        };
        let only_if = |only_if| Ok(Route::Put { key: b"k".to_vec(), life: Expiration::Endless, only_if });
        assert_eq!(put(star(), None), only_if(SetCondition::Present));
        assert_eq!(put(None, star()), only_if(SetCondition::Absent));
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
        let sized = |method, length| {
            parse_route(&RequestHead { length, ..head(method, "/kv/k") }).map_err(|wrong| wrong.status)
        };
        assert!(sized(Method::Put, ENTRY_BYTES_MAX).is_ok());
        assert_eq!(sized(Method::Put, ENTRY_BYTES_MAX + 1), Err(413));
        assert_eq!(sized(Method::Put, u64::MAX), Err(413));
        assert_eq!(sized(Method::Get, 1), Err(400));
    }

    #[test]
    fn node_topics_are_parsed_from_the_path() {
        for (target, ask) in [
            ("/", Route::Known(LocalRoute::Page)),
            ("/livez", Route::Known(LocalRoute::Live)),
            ("/readyz", Route::Node(NodeTopic::Ready { verbose: false })),
            ("/readyz?verbose", Route::Node(NodeTopic::Ready { verbose: true })),
            ("/leader", Route::Node(NodeTopic::Leader)),
            ("/metrics", Route::Node(NodeTopic::Metrics(ExpositionFormat::Plain))),
            ("/status.json?whatever", Route::Node(NodeTopic::Status)),
            ("/version", Route::Known(LocalRoute::Version)),
        ] {
            assert_eq!(parse(Method::Get, target), Ok(ask), "{target}");
        }
    }
}
