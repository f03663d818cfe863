//! Access control of the HTTP gateway.

use super::routes::{LocalRoute, NodeTopic, Route};
use crate::gateway::password::Password;
use crate::wire::http::{HttpError, Method, RequestHead};
use std::net::IpAddr;

/// The default HTTP port is this much above the native port.
pub const PORT_ABOVE: u16 = 200;

/// Options of the gateway.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The password, as a bearer token, for all requests except those about the node's health.
    pub password: Option<Password>,
}

/// Checks whether a request is allowed. `on_loopback` is whether the connection was made to a loopback address.
pub fn admit(head: &RequestHead, ask: &Route, on_loopback: bool, options: &Options) -> Result<(), HttpError> {
    if on_loopback && head.host.as_deref().is_some_and(|host| !is_local(host)) {
        // Another site can resolve its own name to this address, and its pages would then count as same-origin (DNS
        // rebinding).
        return Err(HttpError::new(421, "this door is for this machine: ask for localhost, or by address"));
    }
    if !matches!(head.method, Method::Get | Method::Head) && is_foreign(head) {
        return Err(HttpError::new(403, "a page of another site may not change anything here"));
    }
    let known = options.password.as_ref().is_none_or(|password| {
        let token = head.token.as_deref().unwrap_or_default();
        password.is(token.as_bytes())
    });
    if known || is_open(ask) { Ok(()) } else { Err(HttpError::new(401, "say the password as a bearer token")) }
}

/// Whether a request is allowed without the password: for load balancers, and for a browser that has to ask its user
/// first.
pub fn is_open(ask: &Route) -> bool {
    match ask {
        Route::Known(known) => *known != LocalRoute::Version,
        Route::Node(about) => matches!(about, NodeTopic::Ready { .. } | NodeTopic::Leader),
        Route::Get { .. } | Route::Put { .. } | Route::Delete { .. } => false,
    }
}

/// Whether a request is answered beyond the maximum number of clients: only requests about the node itself.
pub fn is_of_node(ask: &Route) -> bool {
    matches!(ask, Route::Known(_) | Route::Node(_))
}

/// Whether a host is `localhost` or an IP address, so that no name server can redirect it.
fn is_local(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}

/// Whether a browser sends the request for a page of another origin.
fn is_foreign(head: &RequestHead) -> bool {
    let site = head.site.as_deref().is_some_and(|site| !matches!(site, "same-origin" | "none"));
    let origin = head.origin.as_deref().is_some_and(|origin| {
        let ours = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        ours.is_none() || ours != head.host.as_deref()
    });
    site || origin
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::http::exposition::ExpositionFormat;

    fn head(method: Method) -> RequestHead {
        RequestHead { method, path: "/kv/k".into(), host: Some("localhost:7601".into()), ..RequestHead::default() }
    }

    fn put() -> Route {
        Route::Delete { key: "k".into() }
    }

    fn status(head: &RequestHead, ask: &Route, on_loopback: bool, options: &Options) -> u16 {
        admit(head, ask, on_loopback, options).map_or_else(|wrong| wrong.status, |()| 200)
    }

    #[test]
    fn cross_site_writes_are_rejected() {
        let options = Options::default();
        let asked = |method, origin: Option<&str>, site: Option<&str>| {
            let head = RequestHead { origin: origin.map(str::to_owned), site: site.map(str::to_owned), ..head(method) };
            status(&head, &put(), true, &options)
        };
        for (origin, site) in [
            (Some("http://evil.example"), None),
            (Some("http://localhost:7602"), None),
            (Some("http://localhost"), None),
            (Some("null"), None),
            (Some("localhost:7601"), None),
            (None, Some("cross-site")),
            (None, Some("same-site")),
            (Some("http://localhost:7601"), Some("same-site")),
        ] {
            assert_eq!(asked(Method::Delete, origin, site), 403, "{origin:?} {site:?}");
            assert_eq!(asked(Method::Get, origin, site), 200, "a page of another origin cannot read the response");
        }
        for (origin, site) in [(None, None), (Some("http://localhost:7601"), Some("same-origin")), (None, Some("none"))]
        {
            assert_eq!(asked(Method::Delete, origin, site), 200, "{origin:?} {site:?}");
        }
    }

    #[test]
    fn loopback_connection_requires_local_host_name() {
        let asked = |host: &str, on_loopback| {
            let head = RequestHead { host: Some(host.into()), ..head(Method::Get) };
            status(&head, &Route::Node(NodeTopic::Status), on_loopback, &Options::default())
        };
        for host in ["localhost", "LOCALHOST:7601", "127.0.0.1:7601", "[::1]:7601", "[::1]", "10.1.2.3"] {
            assert_eq!(asked(host, true), 200, "{host}");
        }
        for host in ["evil.example:7601", "localhost.evil.example", "127.0.0.1.evil.example", "", "localhost:x"] {
            assert_eq!((asked(host, true), asked(host, false)), (421, 200), "{host}");
        }
    }

    #[test]
    fn only_health_is_served_without_the_password() {
        let options = Options { password: Some(Password::new("secret")) };
        let asked = |ask, token: Option<&str>| {
            let head = RequestHead { token: token.map(str::to_owned), ..head(Method::Get) };
            status(&head, &ask, true, &options)
        };
        for open in [Route::Known(LocalRoute::Page), Route::Known(LocalRoute::Live), Route::Node(NodeTopic::Leader)] {
            assert_eq!(asked(open, None), 200);
        }
        for ask in [
            || Route::Node(NodeTopic::Status),
            || Route::Node(NodeTopic::Metrics(ExpositionFormat::Plain)),
            || Route::Known(LocalRoute::Version),
            put,
        ] {
            assert_eq!((asked(ask(), None), asked(ask(), Some("secre"))), (401, 401));
            assert_eq!(asked(ask(), Some("secret")), 200);
        }
    }
}
