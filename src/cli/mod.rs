//! The command line: one verb a file.

pub mod dump;
pub mod dump_words;
