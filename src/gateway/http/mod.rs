//! The HTTP gateway: keys under `/kv/`, the health and the metrics of the node, and a live page for people.
//!
//! [`routes`] parses an HTTP request, and [`gateway`] checks whether it is allowed.
//! [`HttpConnection`](connection::HttpConnection) is the state of one connection. [`response`] encodes responses:
//! [`health`] those about readiness, [`metrics`] those for Prometheus, in the format that [`exposition`] negotiates.
//! The sockets are in `net/sockets/http.rs`.
//!
//! The status code gives the result of a request. 2xx: done. 404: no such key. 412: the condition on the key does not
//! hold. 400 to 431: malformed, or not allowed. 503, with `Retry-After`: no leader, or too many requests in progress,
//! *nothing was applied*; 507: no space on a disk, nothing was applied. 504: **outcome unknown**, the write may have
//! been applied, or be applied later. An error has one line of JSON as its body: `error` gives the reason, and
//! `applied` whether anything was applied: `false`, or `null` if that is unknown.

pub mod connection;
pub mod exposition;
pub mod gateway;
pub mod health;
pub mod metrics;
pub mod page;
pub mod response;
pub mod routes;
