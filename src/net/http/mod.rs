//! The HTTP door: keys under `/kv/`, how the node is for people and for programs, and a page that shows it live.
//!
//! [`asking`] makes of a request what is asked, or why not; [`door`] says who may ask at all. A
//! [`Talk`](talk::Talk) is one connection, and [`telling`] puts answers into responses: [`health`] those about the
//! node, [`metrics`] those for Prometheus, in the form that [`exposition`] finds was asked for. Nothing here has a socket: `sockets/http.rs` moves the bytes.
//!
//! What becomes of a request is in its status. 2xx: it is done. 404: there is no such key. 412: what was to hold of
//! the key does not. 400 to 431: it was not understood, or is not allowed. 503, with `Retry-After`: no leader, or
//! too much under way, *nothing was applied*; 507: no room on a disk, nothing was applied. 504: **outcome unknown**,
//! it may have been applied, or be yet. An error has a line of JSON as its body: `error` says why, and `applied`
//! whether anything was: `false`, or `null` if that is not known.

pub mod asking;
pub mod door;
pub mod exposition;
pub mod health;
pub mod metrics;
pub mod page;
pub mod talk;
pub mod telling;
