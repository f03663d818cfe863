//! One verb a file.

pub mod command;
pub mod dump;
pub mod dump_words;
pub mod serve;
pub mod sim;
pub mod trouble;
