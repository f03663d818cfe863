//! The live page about the node: one file, which loads no other resources.

use crate::wire::http::{Response, ResponseOptions, put_response};
use bytes::BytesMut;

const PAGE_HTML: &str = include_str!("page.html");
/// The placeholder in the page for the nonce of its script and its style sheet.
const NONCE_PLACEHOLDER: &str = "@NONCE@";

/// Renders the page with its content security policy: only the script and the style sheet with the nonce of this
/// response are used, and the page connects only to this node.
pub fn render(options: ResponseOptions) -> BytesMut {
    let nonce = format!("{:032x}", rand::random::<u128>());
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let page = PAGE_HTML.replace(NONCE_PLACEHOLDER, &nonce);
    let fields = [("Content-Security-Policy", &policy[..]), ("Referrer-Policy", "no-referrer")];
    let response =
        Response { status: 200, content_type: "text/html; charset=utf-8", fields: &fields, body: page.as_bytes() };
    let mut out = BytesMut::new();
    put_response(&mut out, &response, options);
    out
}
