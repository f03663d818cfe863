//! Access control of the HTTP gateway: the password, cross-site requests, and DNS rebinding.

use super::routes::{LocalRoute, NodeTopic, Route};
use crate::gateway::password::Password;
use crate::wire::http::{HttpError, Method, RequestHead};
use std::net::IpAddr;

/// The offset of the default HTTP port from the native port.
pub const PORT_OFFSET: u16 = 200;

/// The setting that decides who may send requests to the HTTP gateway.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The password that a request has to present as a bearer token, except for the routes of [`is_public`]. `None` if
    /// no password is required.
    pub password: Option<Password>,
}

/// Checks whether a request is allowed. `on_loopback` is whether the client connected to a loopback address.
///
/// # Errors
///
/// Status 401 without the password, 403 for a cross-site write, and 421 for a foreign host name on loopback.
pub fn check_access(head: &RequestHead, route: &Route, on_loopback: bool, options: &Options) -> Result<(), HttpError> {
    if on_loopback && head.host.as_deref().is_some_and(|host| !is_local_host(host)) {
        // DNS rebinding: another site can resolve its own name to a loopback address. A browser on this machine would
        // then treat the site's pages and this gateway as one origin.
        return Err(HttpError::new(421, "a loopback address is served only under the host localhost or an IP address"));
    }
    if !matches!(head.method, Method::Get | Method::Head) && is_cross_site(head) {
        return Err(HttpError::new(403, "a page of another site may not change anything here"));
    }
    let is_authenticated = options.password.as_ref().is_none_or(|password| {
        let token = head.bearer_token.as_deref().unwrap_or_default();
        password.matches(token.as_bytes())
    });
    if is_authenticated || is_public(route) {
        Ok(())
    } else {
        Err(HttpError::new(401, "say the password as a bearer token"))
    }
}

/// Whether a request needs no password: health checks of load balancers, and the live page, which asks its user for the
/// password.
pub fn is_public(route: &Route) -> bool {
    match route {
        Route::Local(local) => *local != LocalRoute::Version,
        Route::Node(topic) => matches!(topic, NodeTopic::Ready { .. } | NodeTopic::Leader),
        Route::Get { .. } | Route::Put { .. } | Route::Delete { .. } => false,
    }
}

/// Whether a request concerns the node, not the keys. Only such requests are answered for a client that connects while
/// the maximum number of clients is connected.
pub fn concerns_node(route: &Route) -> bool {
    matches!(route, Route::Local(_) | Route::Node(_))
}

/// Whether a `Host` header is `localhost` or an IP address, with or without a port. No name server is
/// asked for the address of such a host.
fn is_local_host(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let unbracketed = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || unbracketed.parse::<IpAddr>().is_ok()
}

/// Whether a browser sent the request on behalf of a page of another site, by the headers `Sec-Fetch-Site` and
/// `Origin`.
fn is_cross_site(head: &RequestHead) -> bool {
    let is_cross_site = head.fetch_site.as_deref().is_some_and(|site| !matches!(site, "same-origin" | "none"));
    let is_cross_origin = head.origin.as_deref().is_some_and(|origin| {
        let origin_host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        origin_host.is_none() || origin_host != head.host.as_deref()
    });
    is_cross_site || is_cross_origin
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::http::exposition::ExpositionFormat;

    fn head(method: Method) -> RequestHead {
        RequestHead { method, path: "/kv/k".into(), host: Some("localhost:7601".into()), ..RequestHead::default() }
    }

    fn delete_route() -> Route {
        Route::Delete { key: "k".into() }
    }

    fn access_status(head: &RequestHead, route: &Route, on_loopback: bool, options: &Options) -> u16 {
        check_access(head, route, on_loopback, options).map_or_else(|error| error.status, |()| 200)
    }

    #[test]
    fn cross_site_writes_are_rejected() {
        let options = Options::default();
        let status_of = |method, origin: Option<&str>, site: Option<&str>| {
            let head =
                RequestHead { origin: origin.map(str::to_owned), fetch_site: site.map(str::to_owned), ..head(method) };
            access_status(&head, &delete_route(), true, &options)
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
            assert_eq!(status_of(Method::Delete, origin, site), 403, "{origin:?} {site:?}");
            assert_eq!(status_of(Method::Get, origin, site), 200, "a page of another origin cannot read the response");
        }
        for (origin, site) in [(None, None), (Some("http://localhost:7601"), Some("same-origin")), (None, Some("none"))]
        {
            assert_eq!(status_of(Method::Delete, origin, site), 200, "{origin:?} {site:?}");
        }
    }

    #[test]
    fn loopback_connection_requires_local_host_name() {
        let status_of = |host: &str, on_loopback| {
            let head = RequestHead { host: Some(host.into()), ..head(Method::Get) };
            access_status(&head, &Route::Node(NodeTopic::Status), on_loopback, &Options::default())
        };
        for host in ["localhost", "LOCALHOST:7601", "127.0.0.1:7601", "[::1]:7601", "[::1]", "10.1.2.3"] {
            assert_eq!(status_of(host, true), 200, "{host}");
        }
        for host in ["evil.example:7601", "localhost.evil.example", "127.0.0.1.evil.example", "", "localhost:x"] {
            assert_eq!((status_of(host, true), status_of(host, false)), (421, 200), "{host}");
        }
    }

    #[test]
    fn only_health_is_served_without_the_password() {
        let options = Options { password: Some(Password::new("secret")) };
        let status_of = |route, token: Option<&str>| {
            let head = RequestHead { bearer_token: token.map(str::to_owned), ..head(Method::Get) };
            access_status(&head, &route, true, &options)
        };
        for public_route in
            [Route::Local(LocalRoute::Page), Route::Local(LocalRoute::Live), Route::Node(NodeTopic::Leader)]
        {
            assert_eq!(status_of(public_route, None), 200);
        }
        for route in [
            || Route::Node(NodeTopic::Status),
            || Route::Node(NodeTopic::Metrics(ExpositionFormat::Plain)),
            || Route::Local(LocalRoute::Version),
            delete_route,
        ] {
            assert_eq!((status_of(route(), None), status_of(route(), Some("secre"))), (401, 401));
            assert_eq!(status_of(route(), Some("secret")), 200);
        }
    }
}
