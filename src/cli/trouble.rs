//! What went wrong, in one line, and the exit code for it.

use crate::config::Wrong;
use crate::server::server::ServerError;

/// What went wrong: one line for people, a code for scripts.
#[derive(Debug)]
pub struct Trouble {
    /// What, where, and what to do.
    pub what: String,
    /// 1 no, 2 usage, 3 unavailable, 4 unknown, 5 damaged, 70 a bug, 74 I/O, 78 configuration.
    pub code: i32,
}

impl From<clap::Error> for Trouble {
    fn from(error: clap::Error) -> Trouble {
        Trouble { what: error.to_string(), code: 2 }
    }
}

impl From<Wrong> for Trouble {
    fn from(wrong: Wrong) -> Trouble {
        Trouble { what: wrong.to_string(), code: 78 }
    }
}

impl From<ServerError> for Trouble {
    fn from(error: ServerError) -> Trouble {
        Trouble { what: error.to_string(), code: error.exit_code() }
    }
}
