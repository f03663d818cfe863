//! The live page about the node: one file, which loads nothing from elsewhere.

use crate::wire::http::{Response, ResponseOptions, put_response};
use bytes::BytesMut;

const PAGE: &str = include_str!("page.html");
/// The placeholder in the page for the nonce of its script and style.
const MARK: &str = "@NONCE@";

/// Renders the page. Only its own script runs in it, identified by a nonce that differs each time, and it connects only
/// to this node.
pub fn tell(manner: ResponseOptions) -> BytesMut {
    let nonce = format!("{:032x}", rand::random::<u128>());
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let page = PAGE.replace(MARK, &nonce);
    let fields = [("Content-Security-Policy", &policy[..]), ("Referrer-Policy", "no-referrer")];
    let response = Response { status: 200, kind: "text/html; charset=utf-8", fields: &fields, body: page.as_bytes() };
    let mut out = BytesMut::new();
    put_response(&mut out, &response, manner);
    out
}
