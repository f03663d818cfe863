//! Error texts for unknown commands and subcommands, in Redis's words.

use crate::wire::resp::CommandArgs;

/// Maximum bytes of a client's input that an error quotes.
pub const QUOTED_BYTES_MAX: usize = 128;

/// The error for an unknown command. It quotes the name and the first arguments.
pub fn unknown_command(args: &CommandArgs) -> String {
    let name = args.at(0);
    let name = name[..name.len().min(QUOTED_BYTES_MAX)].escape_ascii();
    if ["eval", "eval_ro"].iter().any(|script_command| args.at(0).eq_ignore_ascii_case(script_command.as_bytes())) {
        // django-redis treats most errors of EVAL as an overflow, and increments with GET and SET instead, which loses
        // concurrent increments. It makes an exception for connection errors, of which NOAUTH is one in redis-py.
        return format!(
            "NOAUTH {name} is not supported: there are no scripts here, whatever the password. Nothing was applied"
        );
    }
    let mut quoted = String::new();
    for word in args.args_from(1) {
        let bytes_left = QUOTED_BYTES_MAX.saturating_sub(quoted.len());
        if bytes_left == 0 {
            break;
        }
        quoted += &format!("'{}' ", word[..word.len().min(bytes_left)].escape_ascii());
    }
    format!("ERR unknown command '{name}', with args beginning with: {quoted}")
}

/// The error for an unknown subcommand of a known command.
pub fn unknown_subcommand(args: &CommandArgs) -> String {
    let (name, word) = (args.at(0).to_ascii_uppercase(), args.at(1));
    let word = word[..word.len().min(QUOTED_BYTES_MAX)].escape_ascii();
    format!("ERR unknown subcommand '{word}'. Try {} HELP.", name.escape_ascii())
}
