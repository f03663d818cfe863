//! The errors for unknown commands and subcommands, in Redis's words.

use crate::wire::resp::CommandArgs;

/// Maximum bytes of a client's input that are quoted in an error.
pub const SHOWN: usize = 128;

/// The error for an unknown command, in Redis's words.
pub fn unknown(words: &CommandArgs) -> String {
    let name = words.at(0);
    let name = name[..name.len().min(SHOWN)].escape_ascii();
    if ["eval", "eval_ro"].iter().any(|eval| words.at(0).eq_ignore_ascii_case(eval.as_bytes())) {
        // django-redis treats any error of EVAL as an overflow and increments with GET and SET instead, which loses
        // concurrent increments. The exception is connection errors, and redis-py treats NOAUTH as one.
        return format!(
            "NOAUTH {name} is not supported: there are no scripts here, whatever the password. Nothing was applied"
        );
    }
    let mut shown = String::new();
    for word in words.from(1) {
        let room = SHOWN.saturating_sub(shown.len());
        if room == 0 {
            break;
        }
        shown += &format!("'{}' ", word[..word.len().min(room)].escape_ascii());
    }
    format!("ERR unknown command '{name}', with args beginning with: {shown}")
}

/// The error for an unknown subcommand.
pub fn subcommand(words: &CommandArgs) -> String {
    let (name, word) = (words.at(0).to_ascii_uppercase(), words.at(1));
    let word = word[..word.len().min(SHOWN)].escape_ascii();
    format!("ERR unknown subcommand '{word}'. Try {} HELP.", name.escape_ascii())
}
